"""Logs of calls: lines of which only what is new is parsed give what parsing them whole does."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rwml import open_store
from rwml.assemble import Assembler, Completion, History
from rwml.ingest import Rejected, ingest_file
from rwml.ingest.call_lines import CallLines
from rwml.ingest.items import Record
from rwml.ingest.openai_jsonl import read_openai_jsonl
from rwml.ingest.records import parse_json

KEY = b"a test's key"
SYSTEM = {"role": "system", "content": "Be kind. " * 40}
TOOLS = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}]


class Whole:
    """Stands for `CallLines`, and parses every line as a whole."""

    def __init__(self, *_: object, **__: object) -> None:
        self.parse = parse_json


def imported(path: Path, database: Path, **patches: Any) -> tuple[dict[str, Any], list[Any], Any]:
    """Everything that an import leaves, in a store of its own, and again after a second one."""
    database.unlink(missing_ok=True)
    told: list[Rejected] = []
    with (
        patch.multiple("rwml.ingest.importing", store_key=lambda store: KEY, **patches),
        open_store(f"sqlite:///{database}") as store,
    ):
        summary = ingest_file(path, store, format="openai-jsonl", rejected=told.append)
        found = [each.model_dump() for each in store.trajectories()]
        again = ingest_file(path, store, format="openai-jsonl")
        assert again == summary
        assert [each.model_dump() for each in store.trajectories()] == found
    return asdict(summary), found, told


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("calls")


def check_same(lines: Iterable[bytes], scratch: Path) -> None:
    path, database = scratch / "log", scratch / "rwml.db"
    path.write_bytes(b"\n".join(lines))
    fast = imported(path, database)
    assert fast == imported(path, database, CallLines=Whole)


TEXTS = st.text(max_size=10) | st.sampled_from(
    ["", "…", '"}], "messages": [', "\\", "é", "x" * 300, "\ud83d", "🙂 " * 90, '"response"']
)
IDS = st.sampled_from(["a", "b", "c", ""])
VALUES = st.none() | st.booleans() | st.integers() | st.floats() | TEXTS
CALLS = st.builds(
    lambda name, said: {"id": name, "function": {"name": "look", "arguments": said}},
    IDS,
    st.just('{"at": 1}') | st.just("{not json") | st.dictionaries(TEXTS, VALUES, max_size=2),
)
PARTS = st.lists(
    st.builds(lambda text: {"type": "text", "text": text}, TEXTS)
    | st.builds(lambda text: {"type": "image_url", "image_url": {"url": text}}, TEXTS)
    | st.builds(lambda text: {"type": "thinking", "thinking": text}, TEXTS),
    max_size=2,
)
ANSWERS = st.one_of(
    st.builds(lambda text: {"role": "assistant", "content": text}, TEXTS | PARTS),
    st.builds(lambda c: {"role": "assistant", "content": None, "tool_calls": [c]}, CALLS),
    st.builds(lambda text: {"reasoning": text, "role": "assistant", "content": ""}, TEXTS),
)
MESSAGES = st.one_of(
    st.builds(lambda text: {"role": "user", "content": text}, TEXTS | PARTS),
    st.builds(
        lambda name, text, status: {
            "role": "tool", "tool_call_id": name, "content": text, "status": status,
        },
        IDS, TEXTS, st.sampled_from(["success", "error"]),
    ),
    ANSWERS,
)  # fmt: skip
ODD = st.sampled_from(
    [
        "text", ["user", "text"], 7, None, {"role": "king"}, {}, {"role": "user", "content": {}},
        {"type": "remove", "id": "1"}, {"type": "human", "data": {"content": "hi"}},
        {"lc": 1, "id": ["AIMessage"], "kwargs": {"content": "hi"}},
        {"role": "user", "parts": [{"type": "tool_call_response", "id": "a", "response": 1},
                                   {"type": "text", "content": "more"}]},
        {"role": "tool", "content": "old", "name": "look"}, {"role": "assistant", "content": 1},
        {"role": "assistant", "function_call": {"name": "look", "arguments": "{}"}},
    ]
)  # fmt: skip
AROUND = st.fixed_dictionaries(
    {},
    optional={
        "id": IDS, "session_id": IDS, "model": TEXTS, "tools": st.sampled_from([TOOLS, [], [1]]),
        "functions": st.sampled_from([TOOLS, {"name": "f"}]), "error": TEXTS, "custom_id": IDS,
        "started_at": st.integers(1_767_225_600, 1_767_225_700), "messages": st.none(),
        "usage": st.just({"prompt_tokens": 1}), "metadata": st.dictionaries(TEXTS, VALUES),
        "request": st.just({"messages": [SYSTEM]}), "data": st.just([1]),
    },
)  # fmt: skip


def layout_line(layout: int, request: list[Any], answer: Any, around: dict[str, Any]) -> Any:
    choices = [{"message": answer}]
    outer = {"role": "assistant", "content": f"{len(request)}"}
    return [
        lambda: {**around, "messages": request, "response": answer},
        lambda: {**around, "messages": request, "response": {"choices": choices, "model": "m"}},
        lambda: {"choices": choices * 2, "messages": request, **around},
        lambda: {"request": {"messages": request, **around}, "response": answer},
        lambda: {"response": {"choices": choices}, **around, "request": {"messages": request}},
        lambda: {"request": {"body": {"messages": request}}, "response": {"body": answer}},
        lambda: {"response": outer, "request": {"messages": request, "response": answer}},
        lambda: {"messages": request, **around},
        lambda: {"custom_id": "n", "body": {"messages": request}, "response": answer},
        lambda: [{"messages": request, "response": answer}, around],
    ][layout]()


@st.composite
def logs(draw: st.DrawFn) -> list[bytes]:
    """Calls that go on with earlier ones, branch, come again, are cut, or are not right."""

    def is_rare(one_in: int = 12) -> bool:
        return draw(st.integers(1, one_in)) == one_in

    requests: list[list[Any]] = [[SYSTEM, {"role": "user", "content": "hello"}]]
    common = draw(st.sampled_from([*range(7), 0, 1, 3, *range(10)]))
    is_ascii, around = draw(st.booleans()), draw(st.just({}) | AROUND)
    lines: list[bytes] = []
    for _ in range(draw(st.integers(1, 10))):
        request = draw(st.sampled_from(requests)) if is_rare(4) else requests[-1]
        answer = draw(MESSAGES | ODD) if is_rare() else draw(ANSWERS)
        layout = draw(st.integers(0, 9)) if is_rare() else common
        wire = layout_line(layout, request, answer, draw(AROUND) if is_rare() else around)
        separators = (",", ":") if is_rare() else None
        text = json.dumps(wire, ensure_ascii=is_ascii != is_rare(), separators=separators)
        line = text.encode("utf-8", "surrogatepass")
        lines.append(line)
        if is_rare(4):
            lines.append(draw(st.sampled_from(damaged(line))))
        if is_rare():
            lines.append(line[: draw(st.integers(0, len(line)))])
        more = [draw(ODD) if is_rare() else draw(MESSAGES) for _ in range(draw(st.integers(1, 2)))]
        requests.append([*request, draw(MESSAGES) if is_rare() else answer, *more])
        if is_rare(6):
            requests.append([*request[: draw(st.integers(1, len(request)))], draw(MESSAGES)])
    return lines


def damaged(line: bytes) -> list[bytes]:
    return [
        line,
        line.replace(b'"messages"', b'"messages": null, "messages"'),
        line[:-1] + b', "messages": [], "response": null}',
        line[:-1] + b', "response": {"role": "assistant", "content": "another"}}',
        line.replace(b"e", b"\xff", 3),
        line + b"x",
    ]


@given(logs())
@settings(deadline=None, max_examples=150)
def test_any_log_gives_the_same_store_and_the_same_rejects(
    scratch: Path, lines: list[bytes]
) -> None:
    check_same(lines, scratch)


@given(st.lists(st.binary(max_size=60) | st.text(alphabet='{}[]":,\n 1', max_size=60)))
@settings(deadline=None, max_examples=30)
def test_any_bytes_give_the_same_rejects(scratch: Path, values: list[bytes | str]) -> None:
    encoded = [v if isinstance(v, bytes) else v.encode() for v in values]
    check_same(
        [b'{"messages":[' + v + b'],"response":{"role":"assistant"}}' for v in encoded], scratch
    )


def agent_log(layout: int, *, turns: int = 12, agents: int = 3, mixed: bool = False) -> list[str]:
    """Requests with their whole history, of agents whose tools fail now and then."""
    lines: list[str] = []
    histories = [[SYSTEM, {"role": "user", "content": f"{n}: “go”"}] for n in range(agents)]
    for turn in range(turns):
        for number, history in enumerate(histories):
            name = f"{number}-{turn}"
            call = {"id": name, "type": "function", "function": {"name": "look", "arguments": "{}"}}
            answer: dict[str, Any] = {"role": "assistant", "content": None, "tool_calls": [call]}
            around = {"tools": TOOLS, "session_id": f"{number}"}
            wire = layout_line(layout, history, answer, around)
            lines.append(json.dumps(wire, ensure_ascii=mixed and turn % 3 == 0))
            said = {"role": "tool", "tool_call_id": name, "content": f"{turn} … " + "x" * 200}
            history += [answer, {**said, "status": "error" if turn % 5 == 4 else "success"}]
    return lines


def placed(lines: list[str]) -> tuple[Assembler, list[Completion]]:
    assembler = Assembler(key=KEY, source="test")
    reader = CallLines(assembler.hasher, share=lambda message: message)
    records = (Record(value=reader.parse(line.encode()), line=1) for line in lines)
    found: list[Completion] = []
    for completion in read_openai_jsonl(records):
        assert isinstance(completion, Completion)
        assembler.add(completion)
        found.append(completion)
    return assembler, found


@pytest.mark.parametrize(("layout", "hashed"), [(0, 25), (3, 25), (1, 36), (2, 48), (4, 36)])
def test_what_was_read_before_is_not_hashed_again(layout: int, hashed: int) -> None:
    """25 messages; an answer that is part of a longer response counts again when it comes back."""
    assembler, found = placed(agent_log(layout, agents=3))
    assert all(isinstance(each.history, History) for each in found)
    assert assembler.stats.hashed == 3 * hashed
    assert (len(assembler), assembler.stats.relinked) == (3, 0)


def test_failed_tools_are_known_of_every_history() -> None:
    _, found = placed(agent_log(0, agents=1))
    assert [len(each.failed_calls) for each in found] == [0] * 5 + [1] * 5 + [2] * 2
    assert found[-1].failed_calls == {"0-4", "0-9"}


def test_tools_are_read_once() -> None:
    _, found = placed(agent_log(3))
    assert {id(each.tools) for each in found} == {id(found[0].tools)}
    assert found[0].tools[0].name == "look"


@pytest.mark.parametrize("layout", range(5))
def test_histories_that_are_not_kept_are_read_anew(layout: int, tmp_path: Path) -> None:
    lines = [line.encode() for line in agent_log(layout, mixed=True)]
    check_same(lines, tmp_path)
    with patch.multiple("rwml.ingest.call_lines", KEPT_HISTORIES=2, KEPT_BYTES=9_000):
        check_same(lines, tmp_path)


def test_a_document_of_calls_is_read_as_ever(tmp_path: Path) -> None:
    rows = [json.loads(line) for line in agent_log(0)]
    (tmp_path / "log").write_text(json.dumps(rows, indent=1))
    whole = imported(tmp_path / "log", tmp_path / "rwml.db")
    (tmp_path / "log").write_text("\n".join(map(json.dumps, rows)))
    lines = imported(tmp_path / "log", tmp_path / "rwml.db")
    assert whole[1] == lines[1]
    assert len(whole[1]) == 3
