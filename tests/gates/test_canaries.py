"""Gate 7: secrets in every field never reach a file: database, WAL, spool, exports, logs."""

from __future__ import annotations

import base64
import json
import logging
import random
import sqlite3
import string
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.gates.common import figure, rounds

import rwml
from rwml import Message, Outcome, Step, Tool, ToolCall, Trajectory
from rwml.exports import FORMATS, export_store
from rwml.schema import Fingerprint, Provenance

PER_TRAJECTORY = 25
EXAMPLES = rounds(5, 60)  # some 90 canaries each
LETTERS = string.ascii_letters + string.digits


def word(dice: random.Random, length: int, letters: str = LETTERS) -> str:
    return "".join(dice.choices(letters, k=length))


def jwt(dice: random.Random) -> str:
    head = base64.urlsafe_b64encode(b'{"alg":"HS256"}').decode().rstrip("=")
    return f"{head}.{word(dice, 40)}.{word(dice, 43)}"


def card(dice: random.Random) -> str:
    digits = [4, *(dice.randrange(10) for _ in range(14))]
    doubled = [d if n % 2 else (2 * d if d < 5 else 2 * d - 9) for n, d in enumerate(digits)]
    return "".join(map(str, [*digits, -sum(doubled) % 10]))


MAKERS = (
    lambda dice: f"sk-proj-{word(dice, 40)}",
    lambda dice: f"sk-ant-api03-{word(dice, 60)}",
    lambda dice: f"ghp_{word(dice, 36)}",
    lambda dice: f"AKIA{word(dice, 16, string.ascii_uppercase + string.digits)}",
    lambda dice: f"hf_{word(dice, 34)}",
    lambda dice: f"xoxb-{word(dice, 12, string.digits)}-{word(dice, 24)}",
    lambda dice: f"AIza{word(dice, 35)}",
    jwt,
    lambda dice: f"{word(dice, 12).lower()}@{word(dice, 10, string.ascii_lowercase)}.com",
    card,
)


def fields(canaries: Iterator[str]) -> Trajectory:
    """A trajectory with a canary in every field that holds text."""

    def text(before: str = "it is ", after: str = " indeed") -> str:
        return f"{before}{next(canaries)}{after}"

    call_id = text("", "")
    call = ToolCall(id=call_id, name="look", arguments={text("k "): [{"deep": text("")}]})
    raw = ToolCall(id="raw", name="look", raw_arguments=text('{"broken: "', ""))
    step = Step(
        index=0,
        action=Message(
            role="assistant",
            content=text(),
            reasoning=text("I know "),
            tool_calls=(call, raw),
            name=text(),
        ),
        observation=(
            Message(role="tool", content=json.dumps({"found": [text()]}), tool_call_id=call_id),
            Message(role="tool", content=f"Error: {text()}", tool_call_id="raw", name=text()),
        ),
        kind="tool",
        status="error",
        model=text("model "),
        provenance=Provenance(run_id=text(), node=text(), thread_id=text(), agent_name=text()),
        metadata={text(): {"list": [text()]}},
    )
    return Trajectory(
        id=text("id "),
        source=text("source "),
        task_id=text("task "),
        split=text("split "),
        initial=(Message(role="system", content=text("rules ")),),
        tools=(Tool(name="look", description=text(), parameters={"default": text(), text(): {}}),),
        steps=(step,),
        outcome=Outcome(status="completed", reward=1.0, breakdown={text(): text()}),
        fingerprint=Fingerprint(agent=text(), user_simulator=text()),
        metadata={"thread_id": text(), "note": text('\\u0041\n\t"')},
    )


def forms(canary: str) -> tuple[bytes, ...]:
    """How it could stand in a file."""
    raw = canary.encode()
    return (
        raw,
        canary.encode("utf-16-le"),
        base64.b64encode(raw).rstrip(b"=")[:-1],
        raw.hex().encode(),
    )


@pytest.mark.filterwarnings("ignore")
@settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.integers(0, 2**32))
def test_no_canary_reaches_a_file(
    tmp_path_factory: pytest.TempPathFactory, caplog: pytest.LogCaptureFixture, seed: int
) -> None:
    caplog.set_level(logging.DEBUG)
    dice = random.Random(seed)
    folder = tmp_path_factory.mktemp("canaries")
    planted: list[str] = []

    def plant() -> Iterator[str]:
        while True:
            planted.append(dice.choice(MAKERS)(dice))
            yield planted[-1]

    url = f"sqlite:///{folder / 'rwml.db'}"
    canaries = plant()
    with rwml.Recorder(store=url) as recorder:
        recorder.record(fields(canaries))
        recorder.flush(30)
        other = sqlite3.connect(folder / "rwml.db")  # the store is away: what comes is spooled
        other.execute("begin exclusive")
        recorder.record(fields(canaries))
        recorder.flush(4)
        assert recorder.stats.spooled
        scan(folder, planted, caplog.text)
        other.close()
    with rwml.Recorder(store=url) as recorder:
        recorder.record(fields(canaries))
        while recorder.stats.spooled or recorder.stats.waiting:
            recorder.flush(0.1)
        stats = recorder.stats
        assert stats.failed == 0
        assert stats.written == stats.accepted
    with rwml.open_store(url) as store:
        assert store.stats().trajectories == 3
        for name in FORMATS:
            export_store(store, folder / f"export.{name}", format=name)
    assert len(planted) >= 3 * PER_TRAJECTORY
    scan(folder, planted, caplog.text)
    figure("7-canaries", examples=EXAMPLES, each=len(planted), raw_hits=0)


def scan(folder: Path, planted: list[str], logged: str) -> None:
    """No canary stands in a file of the folder, or in what was logged."""
    files = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert files
    hits = [
        (path.name, canary)
        for path, held in files.items()
        for canary in planted
        if any(form in held for form in forms(canary))
    ]
    assert hits == []
    assert [canary for canary in planted if canary in logged] == []
