"""Gate 6: nothing waits for the recorder, neither a flush on a stalled store nor an event loop."""

from __future__ import annotations

import contextlib
import itertools
import re
import sqlite3
import time
from pathlib import Path

import pytest
from tests.gates.common import IS_FULL, figure, rounds, run
from tests.gates.event_loop import make_text

from rwml import Message, Recorder, Step, serialisation
from rwml.serialisation import LARGE_CHARS
from rwml.trajectory_recorder import read_message

FLUSH_S = 0.7
WORK_MS = 20.0


@pytest.mark.parametrize("kind", ["ascii", "escapes", "other"])
def test_a_large_text_is_encoded_in_pieces_and_others_run_between(
    monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    pieces: list[int] = []
    pauses: list[float] = []
    encode = serialisation.json.dumps

    def noted(text: str) -> str:
        pieces.append(len(text))
        return encode(text)

    text = make_text(kind, 1)
    answer = read_message({"role": "tool", "tool_call_id": "c", "content": text})
    assert answer.content is text  # not even looked at in the agent's thread
    step = Step(index=0, action=Message(role="assistant")).model_copy(
        update={"observation": (answer,)}
    )
    monkeypatch.setattr(serialisation.json, "dumps", noted)
    monkeypatch.setattr(serialisation.time, "sleep", pauses.append)
    _, body = serialisation.dump(step)
    monkeypatch.undo()
    assert max(pieces) <= serialisation.PIECE_CHARS
    assert len(pauses) >= len(text) // serialisation.PIECE_CHARS
    assert body.isascii()  # the driver of the database hands it on as it is
    assert Step.model_validate_json(body).observation[0].content == text


def test_a_large_text_with_something_to_hide_is_never_parsed_as_a_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = make_text("personal", 1)[: 4 * LARGE_CHARS]
    store = f"sqlite:///{tmp_path / 'rwml.db'}"
    parsed: list[int] = []
    validate = Step.model_validate_json

    def noted(body: str) -> Step:
        parsed.append(len(body))
        return validate(body)

    with Recorder(store=store) as recorder:
        monkeypatch.setattr(Step, "model_validate_json", noted)
        with recorder.trajectory(id="t", source="gate") as t:
            t.act(
                {
                    "role": "assistant",
                    "content": text,
                    "tool_calls": [{"id": "c", "function": {"name": "f", "arguments": text}}],
                }
            )
            t.observe({"role": "tool", "tool_call_id": "c", "content": text}, status="error")
        assert recorder.flush(60)
        monkeypatch.undo()
        [trajectory] = recorder.store.trajectories()
    assert parsed
    assert max(parsed) < LARGE_CHARS
    [step] = trajectory.steps
    [call] = step.action.tool_calls
    assert (step.status, step.kind, step.orphans()) == ("error", "tool", 0)
    clean, found = re.subn(r"customer\.\d+@x\.example", "<EMAIL>", text)
    assert found > 10
    for hidden in (step.action.content, step.observation[0].content, call.raw_arguments):
        assert re.sub(r"<EMAIL_\d+>", "<EMAIL>", hidden or "") == clean


@pytest.mark.parametrize(
    ("kind", "redact", "store"),
    [
        *itertools.product(
            ["ascii", "escapes", "other", "personal"], ["none", "default"], ["there"]
        ),
        ("escapes", "none", "away"),
    ],
)
def test_an_event_loop_goes_on_while_ten_megabytes_are_recorded(
    tmp_path: Path, kind: str, redact: str, store: str
) -> None:
    seen = run("event_loop", tmp_path, kind, redact, rounds(1, 10), store)
    recording, control = seen["recording"], seen["control"]
    figure(
        f"6_event_loop_{kind}_{redact}" + ("_away" if store == "away" else ""),
        work_ms=recording["work_ms"],
        gap_ms=recording["gap_ms"],
        control_gap_ms=control["gap_ms"],
    )
    assert recording["ticks"] > 10
    if IS_FULL:
        assert recording["work_ms"] <= WORK_MS, seen


def test_flush_tells_the_truth_in_time(tmp_path: Path) -> None:
    path = tmp_path / "rwml.db"
    with (
        Recorder(store=f"sqlite:///{path}") as recorder,
        contextlib.closing(sqlite3.connect(path)) as other,
    ):
        other.execute("begin exclusive")
        longest = 0.0
        for number in range(rounds(1, 10)):
            recorder.record_step("t", Step(index=number, action=Message(role="assistant")))
            started = time.monotonic()
            assert not recorder.flush(0.5)
            longest = max(longest, time.monotonic() - started)
        other.rollback()
        deadline = time.monotonic() + 60
        while not recorder.flush(1):
            assert time.monotonic() < deadline
    figure("6_flush", longest_s=round(longest, 3))
    if IS_FULL:
        assert longest <= FLUSH_S
