"""Importing logs: what real producers exported of a real run is what rwml recorded of that run."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from rwml import Store, Trajectory, open_store
from rwml.ingest import LogFormat, Summary, ingest_file, sniff
from rwml.schema import Message, Transition

DATA = Path(__file__).parents[1] / "data" / "ingest"
FORMATS: dict[str, LogFormat] = {
    "openinference": "openinference",
    "traceloop": "otel",
    "langsmith": "langsmith",
    "langfuse": "langfuse",
}
WITHOUT_NAMES = {"traceloop", "langfuse"}
"""Producers that leave out the name of a tool message."""


def lines(name: str, folder: Path = DATA) -> list[str]:
    with gzip.open(folder / f"{name}.jsonl.gz", "rt", encoding="utf-8") as file:
        return file.read().splitlines()


def truth(name: str, folder: Path = DATA) -> list[Trajectory]:
    """What rwml's own callback handler recorded of the run that a producer exported."""
    text = (folder / f"{name}.truth.jsonl").read_text(encoding="utf-8")
    return [Trajectory.model_validate_json(line) for line in text.splitlines()]


def seen(trajectories: Iterable[Trajectory], *, names: bool = True) -> list[str]:
    """What a world model learns from: every transition, without ids."""

    def plain(messages: Iterable[Message]) -> list[dict[str, Any]]:
        drop = set() if names else {"name"}
        return [message.model_dump(exclude=drop) for message in messages]

    def row(transition: Transition) -> str:
        found = {
            "context": plain(transition.context),
            "action": plain([transition.action]),
            "next_state": plain(transition.next_state),
            "kind": transition.kind,
            "status": transition.status,
            "tools": [tool.model_dump() for tool in transition.tools],
            "thread": transition.metadata.get("thread_id"),
        }
        return json.dumps(found, sort_keys=True)

    return sorted(row(t) for trajectory in trajectories for t in trajectory.transitions())


def rows(store: Store) -> list[Trajectory]:
    return list(store.trajectories())


def write(path: Path, records: Iterable[Any]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


@pytest.fixture
def here(tmp_path: Path):
    """An empty SQLite store."""
    with open_store(f"sqlite:///{tmp_path / 'rwml.db'}") as store:
        yield store


@pytest.mark.parametrize("producer", FORMATS)
def test_an_export_gives_what_rwml_recorded_of_the_same_run(producer: str, store: Store) -> None:
    path = DATA / f"{producer}.jsonl.gz"
    assert sniff(path) == FORMATS[producer]
    summary = ingest_file(path, store)
    expected = seen(truth(producer), names=producer not in WITHOUT_NAMES)
    assert len(expected) == 4
    assert seen(rows(store), names=producer not in WITHOUT_NAMES) == expected
    assert (summary.trajectories, summary.steps, summary.pending) == (2, 5, 1)
    assert (summary.quarantined, summary.unlinked, summary.branches) == (0, 0, 0)
    for trajectory in rows(store):
        for step in trajectory.steps:
            where = step.provenance
            assert where is not None
            assert where.trace_id
            assert where.run_id or where.span_id
            assert where.node == "agent"
            assert step.usage is not None
            assert step.usage.prompt_tokens == 20
            assert step.started_at is not None
            assert step.latency_s is not None
            assert step.model == ("scripted-1" if producer != "traceloop" else None)


@pytest.mark.parametrize(
    ("producer", "module"),
    [("openinference", "openinference.instrumentation.langchain"), ("langsmith", "langsmith")],
)
def test_a_live_producer_exports_what_rwml_records_beside_it(
    producer: str, module: str, tmp_path: Path, here: Store
) -> None:
    for needed in ("langgraph", "opentelemetry", module.partition(".")[0]):
        pytest.importorskip(needed)
    if find_spec(module) is None:
        pytest.skip(f"needs {module}")
    command = [sys.executable, str(DATA / "make.py"), str(tmp_path), producer]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    summary = ingest_file(tmp_path / f"{producer}.jsonl.gz", here)
    assert summary.format == FORMATS[producer]
    assert len(seen(rows(here))) == 4
    assert seen(rows(here)) == seen(truth(producer, tmp_path))


def test_otels_own_instrumentation_of_the_openai_client(here: Store) -> None:
    summary = ingest_file(DATA / "openai-v2.jsonl.gz", here)
    assert (summary.format, summary.completions, summary.quarantined) == ("otel", 4, 0)
    text = (DATA / "openai-v2.truth.json").read_text(encoding="utf-8")
    conversations = json.loads(text)
    expected = [[Message.from_openai(m) for m in conversation] for conversation in conversations]
    found = [
        [*t.initial, *(m for s in t.steps for m in (s.action, *s.ordered_observation()))]
        for t in rows(here)
    ]
    assert sorted(map(repr, found)) == sorted(map(repr, expected))
    assert [t.tools for t in rows(here)] == [(), ()]  # which this producer leaves out


@pytest.mark.parametrize("producer", FORMATS)
def test_the_order_of_records_does_not_matter(producer: str, tmp_path: Path, here: Store) -> None:
    records = [json.loads(line) for line in lines(producer)]
    if "resourceSpans" in records[0]:  # one span per line, so that they can be turned round
        records = [
            {"resourceSpans": [{"scopeSpans": [{"spans": [span]}]}]}
            for record in records
            for resource in record["resourceSpans"]
            for scope in resource["scopeSpans"]
            for span in scope["spans"]
        ]
    ingest_file(write(tmp_path / "turned.jsonl", reversed(records)), here)
    names = producer not in WITHOUT_NAMES
    assert seen(rows(here), names=names) == seen(truth(producer), names=names)


@pytest.mark.parametrize("producer", FORMATS)
def test_importing_again_changes_nothing(producer: str, store: Store) -> None:
    path = DATA / f"{producer}.jsonl.gz"
    first = ingest_file(path, store)
    before = rows(store)
    again = ingest_file(path, store)
    assert rows(store) == before
    assert again == first


@pytest.mark.parametrize("producer", FORMATS)
def test_a_file_that_grows_grows_the_same_trajectories(
    producer: str, tmp_path: Path, here: Store
) -> None:
    records = lines(producer)
    if producer == "langsmith":  # newest first: a log would have them in order
        records.reverse()
    growing = tmp_path / "growing.jsonl"
    for end in (*range(1, len(records), 2), len(records)):
        growing.write_text("\n".join(records[:end]) + "\n", encoding="utf-8")
        ingest_file(growing, here, format=FORMATS[producer])
    names = producer not in WITHOUT_NAMES
    assert seen(rows(here), names=names) == seen(truth(producer), names=names)
    assert len(rows(here)) == 2
    growing.write_text("\n".join(records[: len(records) // 2]) + "\n", encoding="utf-8")
    before = seen(rows(here))
    ingest_file(growing, here, format=FORMATS[producer])  # an older copy takes nothing back
    assert seen(rows(here)) == before


def requests(*, threads: int, turns: int) -> list[dict[str, Any]]:
    """Conversations side by side: each request holds the whole history of its own."""
    found = []
    histories = {n: [{"role": "user", "content": f"{n}: hello"}] for n in range(threads)}
    for turn in range(turns):
        for number, history in histories.items():
            reply = {"role": "assistant", "content": f"{number}: answer {turn} " + "x" * 200}
            call = {"messages": list(history), "response": {"choices": [{"message": reply}]}}
            found.append({**call, "session_id": f"{number}"})
            history += [reply, {"role": "user", "content": f"{number}: and {turn}?"}]
    return found


def test_bounds_lose_no_step(tmp_path: Path, here: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "log", requests(threads=5, turns=8))
    with open_store(f"sqlite:///{tmp_path / 'whole.db'}") as whole:
        ingest_file(path, whole)
        expected = rows(whole)
    assert [len(t.steps) for t in expected] == [8] * 5
    monkeypatch.setattr("rwml.ingest.importing.WINDOW", 2)
    monkeypatch.setattr("rwml.ingest.importing.KEPT_MESSAGES", 3)
    monkeypatch.setattr("rwml.ingest.writing.BUFFER_CHARS", 3000)
    monkeypatch.setattr("rwml.ingest.writing.BATCH_RECORDS", 3)
    summary = ingest_file(path, here)
    assert seen(rows(here)) == seen(expected)
    assert (summary.trajectories, summary.steps, summary.closed) == (5, 40, 0)


def test_trajectories_that_are_closed_too_early_are_split(
    tmp_path: Path, here: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rwml.ingest.importing.KEPT_TRAJECTORY_BYTES", 20_000)
    path = write(tmp_path / "log", requests(threads=5, turns=8))
    summary = ingest_file(path, here)
    assert summary.closed
    assert summary.unlinked
    assert sum(len(t.steps) for t in rows(here)) == summary.steps == 40
    actions = {s.action.content for t in rows(here) for s in t.steps}
    assert len(actions) == 40


def test_secrets_and_personal_data_are_hidden(tmp_path: Path, here: Store) -> None:
    key = "sk-" + "a1b2c3d4" * 4
    messages = [
        {"role": "user", "content": f"ann@example.org has the key {key}"},
        {"role": "assistant", "content": "Is ann@example.org yours?"},
        {"role": "user", "content": "ann@example.org is mine."},
    ]
    call = {"request": {"messages": messages}, "response": {"choices": [answer("Thanks.")]}}
    path = write(tmp_path / "log", [{"messages": messages}, call])
    assert ingest_file(path, here).trajectories == 2
    stored = json.dumps([t.model_dump(mode="json") for t in rows(here)])
    assert key not in stored
    assert "ann@example.org" not in stored
    assert stored.count("<EMAIL_1>") == 6
    database = (tmp_path / "rwml.db").read_bytes() + (tmp_path / "rwml.db-wal").read_bytes()
    assert key.encode() not in database


# Older conventions and other exports, which no producer at hand makes: written from their
# specifications.


def attribute(value: Any) -> dict[str, Any]:
    if isinstance(value, bool):
        return {"boolValue": value}
    if isinstance(value, int):
        return {"intValue": str(value)}
    if isinstance(value, list):
        return {"arrayValue": {"values": [attribute(each) for each in value]}}
    if isinstance(value, dict):
        pairs = [{"key": key, "value": attribute(inner)} for key, inner in value.items()]
        return {"kvlistValue": {"values": pairs}}
    return {"stringValue": value}


def span(number: int, attributes: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {
        "traceId": "ab" * 16,
        "spanId": f"{number:016x}",
        "startTimeUnixNano": str(1_767_225_600_000_000_000 + number * 1_000_000_000),
        "endTimeUnixNano": str(1_767_225_600_500_000_000 + number * 1_000_000_000),
        "attributes": [{"key": k, "value": attribute(v)} for k, v in attributes.items()],
        **fields,
    }


def answer(text: str) -> dict[str, Any]:
    return {"message": {"role": "assistant", "content": text}}


def only(store: Store) -> Trajectory:
    (found,) = rows(store)
    return found


LOOK = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"at": "cat"}'}}
STORY: list[dict[str, Any]] = [
    {"role": "system", "content": "You look."},
    {"role": "user", "content": "A cat?"},
    {"role": "assistant", "content": None, "tool_calls": [LOOK]},
    {"role": "tool", "content": "a cat", "tool_call_id": "c1"},
    {"role": "assistant", "content": "Yes."},
]


def check_story(trajectory: Trajectory) -> None:
    assert [m.to_openai() for m in trajectory.initial] == STORY[:2]
    look, last = trajectory.steps
    assert [m.to_openai() for m in (look.action, *look.observation)] == STORY[2:4]
    assert (look.kind, look.status, last.status) == ("tool", "ok", "pending")
    assert last.action.content == "Yes."


def indexed(prefix: str, messages: list[dict[str, Any]]) -> dict[str, Any]:
    """Messages as OpenLLMetry's indexed attributes."""
    found: dict[str, Any] = {}
    for place, message in enumerate(messages):
        start = f"{prefix}.{place}."
        for key in ("role", "content", "tool_call_id"):
            if message.get(key) is not None:
                found[start + key] = message[key]
        for number, call in enumerate(message.get("tool_calls", ())):
            inside = f"{start}tool_calls.{number}."
            found[inside + "id"] = call["id"]
            found[inside + "name"] = call["function"]["name"]
            found[inside + "arguments"] = call["function"]["arguments"]
    return found


def test_openllmetrys_indexed_attributes(tmp_path: Path, here: Store) -> None:
    spans = [
        span(
            number,
            {
                "llm.request.type": "chat",
                "gen_ai.request.model": "m",
                "llm.request.functions.0.name": "look",
                "llm.request.functions.0.parameters": '{"type": "object"}',
                "gen_ai.usage.prompt_tokens": 7,
                **indexed("gen_ai.prompt", STORY[:cut]),
                **indexed("gen_ai.completion", STORY[cut : cut + 1]),
            },
        )
        for number, cut in enumerate((2, 4))
    ]
    summary = ingest_file(write(tmp_path / "log", spans), here)
    assert (summary.format, summary.trajectories) == ("otel", 1)
    check_story(only(here))
    assert only(here).tools[0].parameters == {"type": "object"}
    assert only(here).steps[0].usage.prompt_tokens == 7  # type: ignore[union-attr]


@pytest.mark.parametrize("body", [False, True])
def test_messages_as_span_events(body: bool, tmp_path: Path, here: Store) -> None:
    def event(name: str, fields: dict[str, Any]) -> dict[str, Any]:
        about = {k: json.dumps(v) if isinstance(v, list | dict) else v for k, v in fields.items()}
        if body:
            about = {"gen_ai.event.content": json.dumps(fields)}
        pairs = [{"key": k, "value": attribute(v)} for k, v in about.items() if v is not None]
        return {"name": name, "attributes": pairs}

    def asked(message: dict[str, Any]) -> dict[str, Any]:
        fields = {k: v for k, v in message.items() if k not in ("role", "tool_call_id")}
        if "tool_call_id" in message:
            fields["id"] = message["tool_call_id"]
        return event(f"gen_ai.{message['role']}.message", fields)

    spans = []
    for number, cut in enumerate((2, 4)):
        events = [*map(asked, STORY[:cut]), event("gen_ai.choice", {"message": STORY[cut]})]
        spans.append(span(number, {"gen_ai.operation.name": "chat"}, events=events))
    assert ingest_file(write(tmp_path / "log", spans), here).quarantined == 0
    check_story(only(here))


def test_structured_attributes_and_system_instructions(tmp_path: Path, here: Store) -> None:
    def parts(message: dict[str, Any]) -> dict[str, Any]:
        if message["role"] == "tool":
            said = {"type": "tool_call_response", "id": "c1", "response": message["content"]}
            return {"role": "tool", "parts": [said]}
        calls = [
            {"type": "tool_call", "id": c["id"], "name": "look", "arguments": {"at": "cat"}}
            for c in message.get("tool_calls", ())
        ]
        text = [{"type": "text", "content": message["content"]}] if message["content"] else []
        thought = [{"type": "reasoning", "content": "hm"}] if message["role"] == "assistant" else []
        return {"role": message["role"], "parts": [*thought, *text, *calls]}

    spans = [
        span(
            number,
            {
                "gen_ai.operation.name": "chat",
                "gen_ai.system_instructions": [{"type": "text", "content": "You look."}],
                "gen_ai.input.messages": [parts(m) for m in STORY[1:cut]],
                "gen_ai.output.messages": [parts(STORY[cut])],
                "gen_ai.conversation.id": "thread",
            },
        )
        for number, cut in enumerate((2, 4))
    ]
    ingest_file(write(tmp_path / "log", spans), here)
    found = only(here)
    assert [step.action.reasoning for step in found.steps] == ["hm", "hm"]
    bare = tuple(
        s.model_copy(update={"action": s.action.model_copy(update={"reasoning": None})})
        for s in found.steps
    )
    check_story(found.model_copy(update={"steps": bare}))
    assert found.metadata == {"thread_id": "thread"}


def test_a_tool_span_says_what_no_request_shows(tmp_path: Path, here: Store) -> None:
    chat = {
        "gen_ai.operation.name": "chat",
        "gen_ai.input.messages": json.dumps([{"role": "user", "content": "A cat?"}]),
        "gen_ai.output.messages": json.dumps([{"role": "assistant", "tool_calls": [LOOK]}]),
    }
    tool = {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.call.id": "c1"}
    failed = {"status": {"code": 2, "message": "too dark"}}
    other = {**tool, "gen_ai.tool.call.id": "c9", "gen_ai.tool.call.result": "nobody asked"}
    spans = [span(2, tool, **failed), span(3, other), span(1, chat)]
    ingest_file(write(tmp_path / "log", spans), here)
    (step,) = only(here).steps
    assert [m.content for m in step.observation] == ["too dark"]
    assert (step.status, step.kind) == ("error", "tool")


def test_results_with_one_id_are_not_guessed_from(tmp_path: Path, here: Store) -> None:
    chat = {
        "gen_ai.operation.name": "chat",
        "gen_ai.input.messages": json.dumps([{"role": "user", "content": "A cat?"}]),
        "gen_ai.output.messages": json.dumps([{"role": "assistant", "tool_calls": [LOOK]}]),
    }
    tool = {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.call.id": "c1"}
    said = [{**tool, "gen_ai.tool.call.result": text} for text in ("a cat", "a dog")]
    spans = [span(1, chat), *(span(n, about) for n, about in enumerate(said, 2))]
    ingest_file(write(tmp_path / "log", spans), here)
    assert only(here).steps[0].status == "pending"
    assert only(here).steps[0].observation == ()


def test_half_of_parallel_results_leaves_the_step_pending(tmp_path: Path, here: Store) -> None:
    calls = [LOOK, {**LOOK, "id": "c2"}]
    chat = {
        "gen_ai.operation.name": "chat",
        "gen_ai.input.messages": json.dumps([{"role": "user", "content": "A cat?"}]),
        "gen_ai.output.messages": json.dumps([{"role": "assistant", "tool_calls": calls}]),
    }
    tool = {
        "gen_ai.operation.name": "execute_tool",
        "gen_ai.tool.call.id": "c2",
        "gen_ai.tool.call.result": "a dog",
    }
    ingest_file(write(tmp_path / "log", [span(1, chat), span(2, tool)]), here)
    (step,) = only(here).steps
    assert ([m.content for m in step.observation], step.status) == (["a dog"], "pending")


def test_a_call_inside_a_call_is_one_step(tmp_path: Path, here: Store) -> None:
    about = {
        "gen_ai.operation.name": "chat",
        "gen_ai.input.messages": json.dumps([{"role": "user", "content": "A cat?"}]),
    }
    outer = {**about, "gen_ai.output.messages": json.dumps([answer("Yes.")["message"]])}
    inner = {**about, "gen_ai.output.messages": json.dumps([answer("Yes. ")["message"]])}
    inside = {**span(2, inner), "parentSpanId": f"{1:016x}"}
    summary = ingest_file(write(tmp_path / "log", [inside, span(1, outer)]), here)
    assert (summary.nested, summary.trajectories, summary.steps) == (1, 1, 1)


def test_failed_calls_are_counted_and_still_show_what_came_back(
    tmp_path: Path, here: Store
) -> None:
    def chat(number: int, cut: int, **fields: Any) -> dict[str, Any]:
        about = {
            "gen_ai.operation.name": "chat",
            "gen_ai.input.messages": json.dumps(STORY[:cut]),
        }
        if not fields:
            about["gen_ai.output.messages"] = json.dumps([STORY[cut]])
        return span(number, about, **fields)

    spans = [chat(1, 2), chat(2, 4, status={"code": 2, "message": "overloaded"})]
    summary = ingest_file(write(tmp_path / "log", spans), here)
    assert (summary.failed, summary.steps, summary.pending) == (1, 1, 0)
    assert only(here).steps[0].observation[0].content == "a cat"


def test_spans_without_content_are_named(tmp_path: Path, here: Store) -> None:
    about = {"gen_ai.operation.name": "chat", "gen_ai.request.model": "m"}
    request = {"resourceSpans": [{"scopeSpans": [{"spans": [span(2, {"http": "x"}), 7]}]}]}
    summary = ingest_file(write(tmp_path / "log", [span(1, about), request]), here)
    assert (summary.trajectories, summary.skipped, summary.quarantined) == (0, 1, 2)
    assert "content capture" in summary.rejects[0].reason
    assert (summary.rejects[1].line, summary.rejects[1].reason) == (2, "span 2: not an object")


def test_openinference_with_parts_and_the_input_value_alone(tmp_path: Path, here: Store) -> None:
    image = "llm.input_messages.0.message.contents.1.message_content"
    text = "llm.input_messages.0.message.contents.0.message_content"
    about = {
        "openinference.span.kind": "LLM",
        "llm.input_messages.0.message.role": "user",
        f"{text}.type": "text",
        f"{text}.text": "What is this?",
        f"{image}.type": "image",
        f"{image}.image.image.url": "data:image/png;base64,AAAA",
        "output.value": "A cat.",
    }
    bare = {
        "openinference.span.kind": "LLM",
        "input.value": "Say hi.",
        "output.value": '{"greeting": "hi"}',
    }
    hidden = {**bare, "input.value": "__REDACTED__"}
    summary = ingest_file(
        write(tmp_path / "log", [span(1, about), span(2, bare), span(3, hidden)]), here
    )
    assert (summary.format, summary.trajectories, summary.quarantined) == ("openinference", 2, 1)
    found = {t.initial[0].content: t.steps[0].action.content for t in rows(here)}
    assert found == {
        "What is this?[image_url]": "A cat.",
        "Say hi.": '{"greeting": "hi"}',
    }


def test_langfuse_blob_export_and_sessions_of_traces(tmp_path: Path, here: Store) -> None:
    trace = {"id": "t1", "session_id": "s1", "timestamp": "2026-01-01 00:00:00.000000"}
    generations = [
        {
            "id": f"o{cut}",
            "trace_id": "t1",
            "type": "GENERATION",
            "start_time": f"2026-01-01 00:00:0{cut}.000000",
            "end_time": f"2026-01-01 00:00:0{cut}.500000",
            "provided_model_name": "m",
            "usage_details": '{"input": 3, "output": 4}',
            "input": json.dumps({"messages": STORY[:cut], "tools": [{"name": "look"}]}),
            "output": json.dumps(STORY[cut]),
        }
        for cut in (2, 4)
    ]
    summary = ingest_file(write(tmp_path / "log", [trace, *generations]), here, format="langfuse")
    assert (summary.trajectories, summary.skipped) == (1, 1)
    found = only(here)
    check_story(found)
    assert found.metadata == {"thread_id": "s1"}
    assert (found.steps[0].model, found.steps[0].latency_s) == ("m", 0.5)
    assert found.steps[0].usage.completion_tokens == 4  # type: ignore[union-attr]
    assert [tool.name for tool in found.tools] == ["look"]


def test_a_downloaded_langfuse_trace(tmp_path: Path, here: Store) -> None:
    generations = [
        {
            "id": f"o{cut}",
            "traceId": "t1",
            "type": "GENERATION",
            "startTime": f"2026-01-01T00:00:0{cut}Z",
            "input": STORY[:cut],
            "output": {"choices": [{"message": STORY[cut]}]},
        }
        for cut in (2, 4)
    ]
    document = {"id": "t1", "sessionId": "s1", "observations": [*generations, {"type": 7}, 8]}
    path = tmp_path / "trace.json"
    path.write_text(json.dumps(document, indent=2), encoding="utf-8")
    summary = ingest_file(path, here)
    assert (summary.format, summary.quarantined) == ("langfuse", 2)
    check_story(only(here))
    assert only(here).metadata == {"thread_id": "s1"}


def test_langsmith_runs_of_the_openai_wrapper(tmp_path: Path, here: Store) -> None:
    def run(cut: int) -> dict[str, Any]:
        return {
            "id": f"r{cut}",
            "run_type": "llm",
            "trace_id": f"t{cut}",
            "session_id": "a project, no conversation",
            "start_time": f"2026-01-01T00:00:0{cut}",
            "inputs": {"messages": STORY[:cut], "model": "m"},
            "outputs": {"choices": [{"message": STORY[cut]}], "usage": {"prompt_tokens": 3}},
            "extra": {"metadata": {"session_id": "s1"}},
        }

    failed = {"id": "r9", "run_type": "llm", "inputs": {"messages": STORY[:2]}, "error": "away"}
    summary = ingest_file(write(tmp_path / "log", [run(4), run(2), failed]), here)
    assert (summary.format, summary.failed, summary.quarantined) == ("langsmith", 1, 0)
    check_story(only(here))
    assert only(here).metadata == {"thread_id": "s1"}


def test_fine_tuning_conversations(tmp_path: Path, here: Store) -> None:
    said = [*STORY, {"role": "user", "content": "Thanks."}]
    tools = [{"type": "function", "function": {"name": "look", "parameters": {}}}]
    old = [
        {"role": "user", "content": "A dog?"},
        {"role": "assistant", "function_call": {"name": "look", "arguments": "{}"}},
        {"role": "function", "name": "look", "content": "a dog"},
        {"role": "assistant", "content": "Yes."},
    ]
    records = [
        {"messages": said, "tools": tools},
        {"messages": said, "tools": tools},
        {"messages": old},
        {"messages": STORY[:2]},
    ]
    summary = ingest_file(write(tmp_path / "log", records), here)
    assert summary == Summary(
        format="openai-jsonl",
        source="openai-jsonl",
        records=4,
        conversations=3,
        trajectories=2,
        steps=4,
        pending=1,
        duplicates=1,
        quarantined=1,
        rejects=summary.rejects,
    )
    assert (summary.rejects[0].line, summary.rejects[0].reason) == (
        4,
        "a conversation without an assistant message",
    )
    longer, older = sorted(rows(here), key=lambda t: t.initial[0].role)
    assert [s.kind for s in longer.steps] == ["tool", "user"]
    assert longer.tools[0].name == "look"
    assert older.steps[0].orphans() == 0
    assert older.steps[0].observation[0].content == "a dog"


def test_logs_of_requests_and_responses(tmp_path: Path, here: Store) -> None:
    records = [
        {
            "request": {"messages": STORY[:cut], "model": "m"},
            "response": {
                "model": "m-1",
                "choices": [{"message": STORY[cut]}],
                "usage": {"prompt_tokens": 3, "completion_tokens": 1},
            },
            "started_at": 1_767_225_600 + cut,
            "session_id": "s1",
        }
        for cut in (4, 2)
    ]
    records.append({"request": {"messages": STORY[:2]}, "error": "away", "session_id": "s1"})
    summary = ingest_file(write(tmp_path / "log", records), here)
    assert (summary.completions, summary.failed, summary.unlinked) == (3, 1, 0)
    check_story(only(here))
    assert only(here).steps[0].model == "m-1"


@pytest.mark.parametrize("responses_first", [False, True])
def test_both_files_of_a_batch(responses_first: bool, tmp_path: Path, here: Store) -> None:
    requests = [
        {"custom_id": f"n{n}", "method": "POST", "body": {"messages": STORY[:2], "model": "m"}}
        for n in range(3)
    ]
    responses = [
        {
            "id": f"b{n}",
            "custom_id": f"n{n}",
            "response": {"status_code": 200, "body": {"choices": [answer(f"{n}")]}},
        }
        for n in (1, 0)
    ]
    both = [*responses, *requests] if responses_first else [*requests, *responses]
    summary = ingest_file(write(tmp_path / "log", both), here)
    assert (summary.completions, summary.quarantined) == (2, 1)
    assert {s.action.content for t in rows(here) for s in t.steps} == {"0", "1"}
    assert summary.rejects[0].line == both.index(requests[2]) + 1
