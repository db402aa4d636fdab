"""Observations of Langfuse: its API's, a downloaded trace, or the files of its blob storage export.

Read are observations of type ``GENERATION`` and ``TOOL``; names in camelCase and in snake_case. A
trace tells the session of its observations where they do not say it themselves. Source: Langfuse's
API and blob storage export reference.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pydantic import JsonValue

from rwml.assemble import Completion
from rwml.errors import SchemaError
from rwml.ingest.chat import (
    json_or_none,
    listed,
    read_answer,
    read_messages,
    read_time,
    read_tools,
    read_usage,
    seconds_between,
    text_or_none,
)
from rwml.ingest.items import Found, Record, Rejected, Skipped, ToolRun, guarded, read_each
from rwml.ingest.otlp import conversation_id, graph_place
from rwml.ingest.tool_runs import read_tool_message
from rwml.schema import Message, Provenance, Tool

Wire = Mapping[str, Any]

KEPT_TRACES = 100_000
"""Traces whose session is remembered, the oldest goes first (ours)."""


def read_langfuse(records: Iterable[Record | Rejected]) -> Iterator[Found]:
    """Reads Langfuse observations, and traces with their observations."""
    sessions: OrderedDict[str, str] = OrderedDict()
    return read_each(records, lambda value: _read(value, sessions))


def _read(value: JsonValue, sessions: OrderedDict[str, str]) -> Iterator[Found]:
    if not isinstance(value, Mapping):
        raise SchemaError("no Langfuse observation")
    inner = value.get("observations")
    if isinstance(inner, list):
        trace = value.get("trace")
        _remember(trace if isinstance(trace, Mapping) else value, sessions)
        for place, observation in enumerate(inner, 1):
            yield from guarded(
                lambda wire=observation: _observation(wire, sessions),
                within=f"observation {place}: ",
            )
    else:
        yield from _observation(value, sessions)


def _remember(trace: Wire, sessions: OrderedDict[str, str]) -> None:
    name, session = text_or_none(trace.get("id")), _get(trace, "sessionId", "session_id")
    if name is not None and isinstance(session, str) and session:
        sessions[name] = session
        while len(sessions) > KEPT_TRACES:
            sessions.popitem(last=False)


def _observation(value: object, sessions: OrderedDict[str, str]) -> Iterator[Found]:
    if not isinstance(value, Mapping):
        raise SchemaError("no Langfuse observation")
    kind = value.get("type")
    if not isinstance(kind, str):
        if "id" not in value:
            raise SchemaError("no Langfuse observation")
        _remember(value, sessions)
        yield Skipped()
        return
    trace_id = text_or_none(_get(value, "traceId", "trace_id"))
    metadata = _plain(value.get("metadata"))
    session = (
        text_or_none(_get(value, "sessionId", "session_id"))
        or sessions.get(trace_id or "")
        or conversation_id(metadata)
    )
    if kind.upper() == "GENERATION":
        yield from _completions(value, trace_id, session, metadata)
    elif kind.upper() == "TOOL":
        yield _tool_result(value, trace_id, session, metadata)
    else:
        yield Skipped()


def _completions(
    value: Wire, trace_id: str | None, session: str | None, metadata: Wire
) -> Iterator[Found]:
    wire = value.get("input")
    wire = json_or_none(wire) or wire if isinstance(wire, str) else wire
    if wire in (None, "", [], {}):
        raise SchemaError("a generation without input: it was hidden where it was made")
    request, tools = _split_tools(listed(wire))
    messages, failed = read_messages(request)
    answer = read_answer(_answer(value.get("output")))
    if answer is None and value.get("level") != "ERROR":
        raise SchemaError("a generation without output or an error")
    offered = wire.get("tools") if isinstance(wire, Mapping) else None
    started_at = read_time(_get(value, "startTime", "start_time"))
    ended_at = read_time(_get(value, "endTime", "end_time"))
    yield Completion(
        messages=messages,
        failed_calls=failed,
        response=answer,
        tools=tools or read_tools(offered),
        model=text_or_none(_get(value, "model", "providedModelName", "provided_model_name")),
        usage=read_usage(_object(_get(value, "usageDetails", "usage_details", "usage"))),
        started_at=started_at,
        latency_s=seconds_between(started_at, ended_at),
        thread_id=session,
        provenance=Provenance(
            parent_run_id=text_or_none(_get(value, "parentObservationId", "parent_observation_id")),
            span_id=text_or_none(value.get("id")),
            trace_id=trace_id,
            thread_id=session,
            **graph_place(metadata),
        ),
    )


def _split_tools(request: list[Any]) -> tuple[list[Any], tuple[Tool, ...]]:
    """Langfuse's LangChain handler puts the tools behind the messages, as if they were some."""
    offered, messages = [], []
    for message in request:
        content = message.get("content") if isinstance(message, Mapping) else None
        is_tool = isinstance(content, Mapping) and isinstance(content.get("function"), Mapping)
        (offered if is_tool else messages).append(content if is_tool else message)
    return messages, read_tools(offered)


def _answer(output: object) -> object:
    """The message in an output: itself, or the first choice of an OpenAI response."""
    output = json_or_none(output) or output if isinstance(output, str) else output
    choices = output.get("choices") if isinstance(output, Mapping) else None
    if isinstance(choices, list) and choices and isinstance(choices[0], Mapping):
        return choices[0].get("message")
    return output


def _tool_result(value: Wire, trace_id: str | None, session: str | None, metadata: Wire) -> Found:
    call_id = text_or_none(metadata.get("tool_call_id"))
    message, failed = read_tool_message(value.get("output"), call_id=call_id)
    is_error = value.get("level") == "ERROR"
    problem = text_or_none(_get(value, "statusMessage", "status_message"))
    if message is None and is_error and problem and call_id:
        message = Message(role="tool", content=problem, tool_call_id=call_id)
    named = call_id or (message.tool_call_id if message else None)
    if not named:
        return Skipped()
    return ToolRun(
        call_id=named,
        message=message,
        failed=failed or is_error,
        trace_id=trace_id,
        thread_id=session,
        started_at=read_time(_get(value, "startTime", "start_time")),
    )


def _plain(metadata: object) -> dict[str, Any]:
    """Metadata, whose values the SDK writes as JSON text."""
    found = _object(metadata)
    return {
        key: value if (inner := json_or_none(value)) is None else inner
        for key, value in found.items()
    }


def _object(value: object) -> Wire:
    value = json_or_none(value) if isinstance(value, str) else value
    return value if isinstance(value, Mapping) else {}


def _get(value: Wire, *names: str) -> Any:
    return next((value[name] for name in names if value.get(name) is not None), None)
