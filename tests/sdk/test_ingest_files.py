"""`rwml ingest` and the files it reads: lines, documents, compressed, torn, too long, hostile."""

from __future__ import annotations

import gzip
import json
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rwml import open_store
from rwml.assemble import Completion
from rwml.errors import UsageError
from rwml.ingest import LogFormat, Rejected, ingest_file, records, sniff
from rwml.ingest.formats import reader_of
from rwml.ingest.items import Conversation, Record, Skipped, ToolRun
from rwml.ingest.records import read_records
from rwml.ingest.results import ToolResults

FORMATS: list[LogFormat] = ["otel", "openinference", "langfuse", "langsmith", "openai-jsonl"]
ROWS = [{"id": number, "text": "x" * 50} for number in range(100)]


def found_in(path: Path) -> tuple[list[Any], list[tuple[int | None, int | None, str]]]:
    """Values, and place and reason of what was rejected."""
    values, rejects = [], []
    for each in read_records(path):
        if isinstance(each, Record):
            values.append(each.value)
        else:
            rejects.append((each.line, each.element, each.reason))
    return values, rejects


def talk(text: str) -> dict[str, Any]:
    messages = [{"role": "user", "content": text}, {"role": "assistant", "content": "Yes."}]
    return {"messages": messages}


LAYOUTS: dict[str, Callable[[list[Any]], str]] = {
    "lines": lambda rows: "".join(json.dumps(row) + "\n" for row in rows),
    "no newline at the end": lambda rows: "\n\n".join(map(json.dumps, rows)),
    "windows": lambda rows: "\ufeff" + "\r\n".join(map(json.dumps, rows)),
    "one line": json.dumps,
    "indented": lambda rows: json.dumps(rows, indent=2),
    "one element a line": lambda rows: "[" + ",\n".join(map(json.dumps, rows)) + "]",
    "a page of an API": lambda rows: json.dumps({"data": rows, "meta": {}}, indent=1),
}


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_of_a_file(
    layout: str, large: bool, packed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if large:  # than what is parsed at once
        pytest.importorskip("ijson")
        monkeypatch.setattr(records, "RECORD_BYTES", 1000)
        monkeypatch.setattr(records, "_BUFFER_BYTES", 64)
    path = tmp_path / "file"
    data = LAYOUTS[layout](ROWS).encode()
    path.write_bytes(gzip.compress(data) if packed else data)
    assert found_in(path) == (ROWS, [])


def test_otlp_documents_are_read_span_by_span(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ijson")
    monkeypatch.setattr(records, "RECORD_BYTES", 1000)
    monkeypatch.setattr(records, "_BUFFER_BYTES", 64)
    path = tmp_path / "file"
    document = {"resourceSpans": [{"resource": {}, "scopeSpans": [{"scope": {}, "spans": ROWS}]}]}
    for text in (json.dumps(document, indent=1), json.dumps(document) * 1):
        path.write_text(text)
        assert found_in(path) == (ROWS, [])


def test_bad_lines_are_named_and_the_others_read(tmp_path: Path) -> None:
    path = tmp_path / "file"
    deep = "[" * 100_000
    lines = [b'{"a": 1}', b'{"a": ', b"7", b"\xff\xfe", b"", deep.encode(), b'[{"b": 2}, 3]']
    path.write_bytes(b"\n".join([*lines, b'{"half": "\\ud83d"}', b'{"c": 3']))
    values, rejects = found_in(path)
    assert values == [{"a": 1}, {"b": 2}, {"half": "\ud83d"}]
    places = [(line, element) for line, element, _ in rejects]
    assert places == [(2, None), (3, None), (4, None), (6, None), (7, 2), (9, None)]


def test_a_line_that_is_too_long_is_left_out_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ijson")
    monkeypatch.setattr(records, "RECORD_BYTES", 1000)
    monkeypatch.setattr(records, "_BUFFER_BYTES", 64)
    path = tmp_path / "file"
    long = [json.dumps({"a": "x" * 5000}), "x" * 5000, json.dumps([{"a": "x" * 5000}, {"b": 1}])]
    path.write_text("\n".join(['{"a": 1}', *long, '{"b": 2}']))
    values, rejects = found_in(path)
    assert values == [{"a": 1}, {"b": 2}]
    assert [line for line, _, _ in rejects] == [2, 3, 4]


@pytest.mark.parametrize("cut", [1, 10, 500])
def test_a_torn_file_is_read_as_far_as_it_goes(
    cut: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ijson")
    path = tmp_path / "file"
    text = json.dumps(ROWS, indent=1).encode()
    for data in (text[:-cut], gzip.compress(text)[:-20]):
        path.write_bytes(data)
        values, rejects = found_in(path)
        assert values == ROWS[: len(values)]
        assert len(rejects) == 1
    assert values or cut != 1


def test_progress_is_told_in_bytes_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(gzip.compress(LAYOUTS["lines"](ROWS).encode()))
    places: list[int] = []
    assert len(list(read_records(path, moved=places.append))) == 100
    assert places == sorted(places)
    assert places[-1] <= path.stat().st_size


def test_what_is_no_log_is_refused(tmp_path: Path) -> None:
    for text in ("", "hello\n", '{"a": 1}\n', "[]", "{\n", "\x00" * 1000):
        path = tmp_path / "file"
        path.write_text(text)
        with pytest.raises(UsageError, match="--format"):
            sniff(path)
    with pytest.raises(UsageError):
        sniff(tmp_path / "none")


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "log.jsonl"
    records = [json.dumps(talk("a")), "secret words, no JSON", json.dumps(talk("b")), '{"x": 1}']
    path.write_text("\n".join(records))
    return path


def test_the_command(rwml, url: str, log: Path, tmp_path: Path) -> None:
    out = tmp_path / "left-out.jsonl"
    code, printed, err = rwml("ingest", log, "--store", url, "--json", "--quarantine", out)
    assert code == 0, err
    found = json.loads(printed)
    assert (found["format"], found["source"]) == ("openai-jsonl", "openai-jsonl")
    assert (found["trajectories"], found["steps"], found["quarantined"]) == (2, 2, 2)
    assert found["rejects"][0] == {"line": 2, "reason": "not JSON"}
    assert found["rejects"][1]["line"] == 4
    assert [json.loads(line) for line in out.read_text().splitlines()] == found["rejects"]
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    assert "secret words" not in out.read_text() + printed + err
    assert json.loads(rwml("stats", "--store", url, "--json")[1])["trajectories"] == 2


def test_the_command_says_it_to_people(rwml, url: str, log: Path) -> None:
    code, printed, _ = rwml("ingest", log, "--store", url, "--source", "shop")
    assert code == 0
    assert "read as openai-jsonl (by its first records)" in printed
    assert "line 2: not JSON" in printed
    assert json.loads(rwml("stats", "--store", url, "--json")[1])["by_source"] == {"shop": 2}
    log.write_text("\n".join(["no JSON"] * 30 + [json.dumps(talk("a"))]))
    _, printed, _ = rwml("ingest", log, "--store", url, "--format", "openai-jsonl")
    assert printed.count("not JSON") == 20
    assert "and 10 more" in printed


def test_nothing_imported_is_found_wanting(rwml, url: str, log: Path) -> None:
    code, printed, _ = rwml("ingest", log, "--store", url, "--format", "langsmith", "--json")
    assert code == 1
    assert json.loads(printed)["quarantined"] == 4


def test_wrong_usage(rwml, url: str, log: Path, tmp_path: Path) -> None:
    before = log.read_bytes()
    for arguments in (
        (tmp_path / "none",),
        (tmp_path,),
        (log, "--format", "xml"),
        (log, "--quarantine", tmp_path),
        (log, "--quarantine", log),
        (log, "--quarantine", tmp_path / "none" / "file"),
    ):
        assert rwml("ingest", *arguments, "--store", url)[:2] == (2, "")
    assert log.read_bytes() == before


def test_a_large_document_needs_the_ingest_extra(
    rwml, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(records, "RECORD_BYTES", 1000)
    monkeypatch.setattr("rwml.extras.find_spec", lambda name: None)
    path = tmp_path / "file"
    path.write_text(json.dumps([talk("a")] * 100, indent=1))
    code, _, err = rwml("ingest", path, "--store", url)
    assert (code, "install 'rwml[ingest]'" in err) == (2, True)


def test_help_has_one_example(rwml) -> None:
    code, out, _ = rwml("ingest", "--help")
    assert (code, out.count("Example:")) == (0, 1)


def test_every_record_is_counted_once(tmp_path: Path) -> None:
    """Of a thousand records, those that cannot be read are named one by one."""
    path = tmp_path / "log"
    bad = [json.dumps({"messages": 7}) if n % 3 else json.dumps(talk(f"{n}")) for n in range(1500)]
    path.write_text("\n".join(bad))
    told: list[Rejected] = []
    with open_store(f"sqlite:///{tmp_path / 'rwml.db'}") as store:
        summary = ingest_file(path, store, format="openai-jsonl", rejected=told.append)
        assert store.counts().trajectories == summary.trajectories == 500
    assert (summary.quarantined, len(summary.rejects), len(told)) == (1000, 1000, 1000)
    assert [reject.line for reject in told] == [n + 1 for n in range(1500) if n % 3]


# Whatever a file holds, a reader raises nothing and loses nothing in silence.

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)
NAMES = [
    "resourceSpans", "scopeSpans", "spans", "attributes", "events", "traceId", "spanId",
    "parentSpanId", "startTimeUnixNano", "endTimeUnixNano", "status", "code", "message", "key",
    "value", "stringValue", "intValue", "arrayValue", "kvlistValue", "values", "name", "type",
    "input", "output", "observations", "traceId", "sessionId", "startTime", "level", "metadata",
    "usageDetails", "run_type", "inputs", "outputs", "generations", "messages", "extra", "error",
    "trace_id", "prompts", "choices", "tool_calls", "function", "arguments", "id", "role",
    "content", "parts", "lc", "kwargs", "data", "tool_call_id", "status", "custom_id", "body",
    "request", "response", "tools", "args", "additional_kwargs", "function_call", "reasoning",
]  # fmt: skip
TEXTS = st.sampled_from([
    "gen_ai.operation.name", "chat", "execute_tool", "gen_ai.input.messages",
    "gen_ai.output.messages", "user", "gen_ai.prompt.0.role", "gen_ai.prompt.0.content",
    "gen_ai.prompt.x.y", "gen_ai.completion.0.content", "gen_ai.user.message", "gen_ai.choice",
    "gen_ai.tool.call.id", "gen_ai.tool.definitions", "exception", "openinference.span.kind",
    "LLM", "TOOL", "llm.input_messages.0.message.role", "llm.tools.0.tool.json_schema",
    "llm.input_messages.0.message.contents.0.message_content.type",
    "llm.output_messages.0.message", "input.value", "output.value", "session.id", "GENERATION",
    "TOOL", "llm", "tool", "assistant", "tool", "system", "human", "ai", "text", "tool_call",
    "tool_call_response", "2026-01-01T00:00:00Z", "1767225600000000000", '[{"role":"user"}]',
    '{"messages":[]}', '{"role":"assistant","content":"x"}', "[]", "{}", "null", "\ud800", "ERROR",
])  # fmt: skip
SHAPED = st.recursive(
    PLAIN | TEXTS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(NAMES) | TEXTS, inner, max_size=6)
    ),
    max_leaves=30,
)


def attributes(pairs: dict[str, Any]) -> list[Any]:
    return [{"key": key, "value": {"stringValue": value}} for key, value in pairs.items()]


SPANS = st.builds(
    lambda pairs, rest: {"spanId": "1", **rest, "attributes": attributes(pairs)},
    st.dictionaries(TEXTS, TEXTS | PLAIN, max_size=8),
    st.dictionaries(st.sampled_from(NAMES), SHAPED, max_size=3),
)
MESSAGES = st.lists(
    st.dictionaries(
        st.sampled_from(["role", "content", "tool_calls", "parts", "type", "kwargs", "lc", "id"]),
        SHAPED,
        max_size=4,
    ),
    max_size=3,
)
RECORDS = (
    SHAPED
    | SPANS
    | st.builds(lambda asked, said: {"run_type": "llm", "inputs": asked, "outputs": said},
                st.fixed_dictionaries({"messages": MESSAGES | SHAPED}), SHAPED)
    | st.builds(lambda asked, said: {"type": "GENERATION", "traceId": "t", "input": asked,
                                     "output": said}, MESSAGES | SHAPED, SHAPED)
    | st.builds(lambda asked, said: {"request": {"messages": asked}, "response": said},
                MESSAGES | SHAPED, SHAPED)
    | st.builds(lambda asked: {"messages": asked}, MESSAGES)
)  # fmt: skip


@pytest.mark.parametrize("format", FORMATS)
@settings(max_examples=80, deadline=None)
@given(values=st.lists(RECORDS, min_size=1, max_size=4))
def test_readers_raise_nothing_and_lose_nothing(format: LogFormat, values: list[Any]) -> None:
    given_records = [Record(value=value, line=n) for n, value in enumerate(values, 1)]
    found = list(reader_of(format)(given_records))
    results = ToolResults()
    for each in found:
        if isinstance(each, Rejected):
            assert each.line in range(1, len(values) + 1)
            assert each.reason
            assert "\n" not in each.reason
        elif isinstance(each, ToolRun):
            results.add(each)
        elif isinstance(each, Conversation):
            assert each.messages
        elif not isinstance(each, Skipped):
            assert isinstance(each, Completion)
            assert results.mark(each).messages == each.messages
    for number, value in enumerate(values, 1):
        if not isinstance(value, dict):
            assert any(isinstance(each, Rejected) and each.line == number for each in found)


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


@settings(max_examples=40, deadline=None)
@given(
    values=st.lists(RECORDS | st.binary(max_size=20), min_size=1, max_size=5),
    format=st.sampled_from(FORMATS),
    layout=st.sampled_from(["lines", "list"]),
)
def test_any_file_is_imported_or_quarantined(
    values: list[Any], format: LogFormat, layout: str, scratch: Path
) -> None:
    path, database = scratch / "file", scratch / "rwml.db"
    encoded = [v if isinstance(v, bytes) else json.dumps(v).encode() for v in values]
    if layout == "lines":
        path.write_bytes(b"\n".join(encoded))
    else:
        path.write_bytes(b"[\n" + b",\n".join(encoded) + b"\n]")
    with open_store(f"sqlite:///{database}") as store:
        summary = ingest_file(path, store, format=format)
        again = ingest_file(path, store, format=format)
        assert len(list(store.trajectories())) >= summary.trajectories
    assert summary == again
    assert summary.quarantined >= len(summary.rejects)


@settings(max_examples=100, deadline=None)
@given(data=st.binary(max_size=300) | st.text(alphabet='{}[]":,\n 1a', max_size=200))
def test_any_bytes_are_read(data: bytes | str, scratch: Path) -> None:
    path = scratch / "bytes"
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    for record in read_records(path):
        assert isinstance(record, Rejected) or isinstance(record.value, dict)
