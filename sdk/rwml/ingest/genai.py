"""Spans of OTel's GenAI semantic conventions, in their current form and the older ones.

Read are chat spans (messages as attributes, as indexed attributes of OpenLLMetry, or as span
events) and ``execute_tool`` spans. Source: OpenTelemetry semantic conventions for generative AI.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from rwml.errors import SchemaError
from rwml.ingest.chat import json_or_none, read_answer, read_messages, read_tools, read_usage
from rwml.ingest.items import Found, Record, Rejected, Skipped, ToolRun, read_each
from rwml.ingest.otlp import (
    Attributes,
    Span,
    completions,
    conversation_id,
    graph_place,
    numbered,
    read_spans,
)
from rwml.ingest.tool_runs import read_tool_message
from rwml.schema import Message

_CHAT = ("chat", "text_completion", "generate_content", "completion")
_DETAILS = "gen_ai.client.inference.operation.details"
_ASSOCIATION = "traceloop.association.properties."
_NO_CONTENT = (
    "a chat span without messages: switch content capture on where it was recorded "
    "(OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT)"
)
_EVENT_ROLES = {
    "gen_ai.system.message": "system",
    "gen_ai.user.message": "user",
    "gen_ai.assistant.message": "assistant",
    "gen_ai.tool.message": "tool",
}


def read_otel(records: Iterable[Record | Rejected]) -> Iterator[Found]:
    """Reads OTLP-JSON whose spans follow the GenAI semantic conventions."""
    return read_each(records, lambda value: read_spans(value, _read_span))


def _read_span(span: Span) -> Iterator[Found]:
    about = span.attributes
    operation = about.text("gen_ai.operation.name")
    if operation == "execute_tool" or about.get("traceloop.span.kind") == "tool":
        yield _tool_result(span)
    elif operation in _CHAT or (operation is None and _is_old_chat(span)):
        yield from _completions(span)
    else:
        yield Skipped()


def _is_old_chat(span: Span) -> bool:
    """Whether a span without an operation's name is a model call."""
    kind = span.attributes.get("llm.request.type")
    return (
        kind in _CHAT
        or (kind is None and span.attributes.begins("gen_ai.prompt.", "llm.prompts."))
        or "gen_ai.input.messages" in span.attributes
        or any(name in _EVENT_ROLES or name == "gen_ai.choice" for name, _ in span.events)
    )


def _completions(span: Span) -> Iterator[Found]:
    about = span.attributes
    asked, answered = _messages(span)
    messages, failed = read_messages(asked)
    if not messages:
        raise SchemaError(_NO_CONTENT)
    association = {
        name[len(_ASSOCIATION) :]: about.get(name)
        for name in about
        if name.startswith(_ASSOCIATION)
    }
    thread_id = about.text("gen_ai.conversation.id", "session.id") or conversation_id(association)
    yield from completions(
        span,
        (messages, failed),
        (message for message in map(read_answer, answered) if message is not None),
        tools=_tools(about),
        model=_known(about.text("gen_ai.response.model"))
        or _known(about.text("gen_ai.request.model")),
        usage=read_usage(_counts(about)),
        thread_id=thread_id,
        about={**graph_place(association), "agent_name": about.text("gen_ai.agent.name")},
    )


def _messages(span: Span) -> tuple[list[Any], list[Any]]:
    """The request's and the response's messages, from wherever this span has them."""
    details = (about for name, about in span.events if name == _DETAILS)
    for about in (span.attributes, *details):
        asked = about.parsed("gen_ai.input.messages")
        if isinstance(asked, list):
            system = about.parsed("gen_ai.system_instructions")
            first = [{"role": "system", "parts": _as_parts(system)}] if system else []
            answered = about.parsed("gen_ai.output.messages")
            return [*first, *asked], answered if isinstance(answered, list) else []
    about = span.attributes
    for prompt, completion in (
        ("gen_ai.prompt", "gen_ai.completion"),
        ("llm.prompts", "llm.completions"),
    ):
        indexed = [_of_index(node) for node in about.tree(prompt)]
        if indexed:
            return indexed, [
                {**_of_index(node), "role": "assistant"} for node in about.tree(completion)
            ]
    return _of_events(span)


def _as_parts(system: object) -> list[Any]:
    if not isinstance(system, list):
        return [{"type": "text", "content": system}]
    return [{"type": "text", "content": s} if isinstance(s, str) else s for s in system]


def _of_index(node: object) -> dict[str, Any]:
    """A message of OpenLLMetry's ``gen_ai.prompt.{i}.*``; parts may be JSON text."""
    if not isinstance(node, dict):
        raise SchemaError("a message is no object")
    content = node.get("content")
    parts = json_or_none(content)
    if isinstance(parts, list) and all(isinstance(p, Mapping) and "type" in p for p in parts):
        content = parts or content
    calls = [call for call in numbered(node.get("tool_calls")) if isinstance(call, dict)]
    return {
        "role": node.get("role", "user"),
        "content": content,
        "tool_calls": calls,
        "tool_call_id": node.get("tool_call_id"),
    }


def _of_events(span: Span) -> tuple[list[Any], list[Any]]:
    """Messages of span events (semantic conventions 1.26 to 1.36)."""
    asked: list[Any] = []
    answered: list[Any] = []
    for name, about in span.events:
        if name == "gen_ai.content.prompt":
            asked.append(about.parsed("gen_ai.prompt") or about.get("gen_ai.prompt"))
        elif name == "gen_ai.content.completion":
            answered.append(about.parsed("gen_ai.completion") or about.get("gen_ai.completion"))
        elif name in _EVENT_ROLES:
            asked.append({"role": _EVENT_ROLES[name], **_event_body(about)})
        elif name == "gen_ai.choice":
            body = _event_body(about)
            message = body.get("message", body)
            message = json_or_none(message) if isinstance(message, str) else message
            if isinstance(message, Mapping):
                answered.append({**message, "role": "assistant"})
    flat = [m for each in asked for m in (each if isinstance(each, list) else [each])]
    return flat, [m for each in answered for m in (each if isinstance(each, list) else [each])]


def _event_body(about: Attributes) -> dict[str, Any]:
    body = about.parsed("gen_ai.event.content", "event.body")
    if not isinstance(body, dict):
        body = {name: about.get(name) for name in about}
    for key in ("tool_calls", "message"):
        if isinstance(body.get(key), str):
            body[key] = json_or_none(body[key]) or body[key]
    if "id" in body and "tool_call_id" not in body:
        body["tool_call_id"] = body["id"]
    return body


def _tools(about: Attributes) -> tuple[Any, ...]:
    defined = about.get("gen_ai.tool.definitions")
    return read_tools(defined or about.tree("llm.request.functions"))


def _counts(about: Attributes) -> dict[str, Any]:
    return {
        "input": about.get("gen_ai.usage.input_tokens", "gen_ai.usage.prompt_tokens"),
        "output": about.get("gen_ai.usage.output_tokens", "gen_ai.usage.completion_tokens"),
    }


def _known(model: str | None) -> str | None:
    return None if model == "unknown" else model


def _tool_result(span: Span) -> Found:
    """What an ``execute_tool`` span says; OpenLLMetry wraps input and output in JSON objects."""
    about = span.attributes
    wrapped = about.parsed("gen_ai.tool.call.result", "traceloop.entity.output")
    said: object = about.get("gen_ai.tool.call.result", "traceloop.entity.output")
    if isinstance(wrapped, Mapping) and "output" in wrapped and "kwargs" in wrapped:
        said = wrapped["output"]
    asked = about.parsed("gen_ai.tool.call.arguments", "traceloop.entity.input")
    more = asked.get("kwargs") if isinstance(asked, Mapping) else None
    call_id = about.text("gen_ai.tool.call.id")
    if call_id is None and isinstance(more, Mapping):
        call_id = more.get("tool_call_id")
    message, failed = read_tool_message(said, call_id=call_id)
    return tool_result(
        span,
        message,
        failed=failed,
        call_id=call_id,
        thread_id=about.text("gen_ai.conversation.id", "session.id", f"{_ASSOCIATION}thread_id"),
    )


def tool_result(
    span: Span,
    message: Message | None,
    *,
    failed: bool,
    call_id: object,
    thread_id: str | None,
) -> Found:
    """A tool's span as a result; skipped where it names no call, or was interrupted."""
    if message is None and span.failed and isinstance(call_id, str) and span.problem:
        message = Message(role="tool", content=span.problem, tool_call_id=call_id)
    named = call_id if isinstance(call_id, str) else None
    named = named or (message.tool_call_id if message else None)
    if not named or span.interrupted:
        return Skipped()
    return ToolRun(
        call_id=named,
        message=message,
        failed=failed or span.failed,
        trace_id=span.trace_id,
        thread_id=thread_id,
        started_at=span.started_at,
    )
