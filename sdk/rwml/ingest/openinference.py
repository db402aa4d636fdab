"""Spans of the OpenInference conventions (Arize Phoenix and others).

Read are spans of kind ``LLM`` and ``TOOL``. Source: OpenInference semantic conventions.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from rwml.errors import SchemaError
from rwml.ingest.chat import json_or_none, read_answer, read_messages, read_tools, read_usage
from rwml.ingest.genai import tool_result
from rwml.ingest.items import Found, Record, Rejected, Skipped, read_each
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

_HIDDEN = "__REDACTED__"
"""What OpenInference puts in place of texts that it was told to hide."""


def read_openinference(records: Iterable[Record | Rejected]) -> Iterator[Found]:
    """Reads OTLP-JSON whose spans follow the OpenInference conventions."""
    return read_each(records, lambda value: read_spans(value, _read_span))


def _read_span(span: Span) -> Iterator[Found]:
    kind = span.attributes.get("openinference.span.kind")
    if kind == "LLM":
        yield from _completions(span)
    elif kind == "TOOL":
        yield _tool_result(span)
    else:
        yield Skipped()


def _completions(span: Span) -> Iterator[Found]:
    about = span.attributes
    asked: Any = [_message(node) for node in about.tree("llm.input_messages")]
    answered: list[Any] = [_message(node) for node in about.tree("llm.output_messages")]
    if not asked:
        asked = about.get("input.value")
    if not answered:
        answered = [about.get("output.value")]
    if asked in (None, "", _HIDDEN) or _HIDDEN in answered:
        raise SchemaError("an LLM span without its messages: they were hidden where it was made")
    metadata = about.parsed("metadata")
    messages, failed = read_messages(asked)
    yield from completions(
        span,
        (messages, failed | _failed(about)),
        (message for message in map(read_answer, answered) if message is not None),
        tools=_tools(about),
        model=about.text("llm.model_name"),
        usage=read_usage(
            {
                "input": about.get("llm.token_count.prompt"),
                "output": about.get("llm.token_count.completion"),
            }
        ),
        thread_id=about.text("session.id") or conversation_id(metadata),
        about={**graph_place(metadata), "agent_name": about.text("agent.name")},
    )


def _failed(about: Attributes) -> frozenset[str]:
    """Calls whose results are errors, which only the framework's own messages say (LangChain)."""
    raw = about.get("input.value")
    if not isinstance(raw, str) or '"error"' not in raw:
        return frozenset()
    wire = json_or_none(raw)
    try:
        return read_messages(wire)[1] if isinstance(wire, dict) else frozenset()
    except SchemaError:
        return frozenset()


def _message(node: object) -> dict[str, Any]:
    """A message of ``llm.input_messages.{i}.message.*``."""
    wire = node.get("message") if isinstance(node, dict) else None
    if not isinstance(wire, dict):
        raise SchemaError("a message is no object")
    calls = [c.get("tool_call") for c in numbered(wire.get("tool_calls")) if isinstance(c, dict)]
    content = wire.get("content")
    parts = [_part(p.get("message_content")) for p in numbered(wire.get("contents"))]
    if content == _HIDDEN:
        raise SchemaError("an LLM span without its messages: they were hidden where it was made")
    return {
        "role": wire.get("role", "user"),
        "content": parts if parts and content is None else content,
        "tool_calls": [call for call in calls if isinstance(call, dict)],
        "tool_call_id": wire.get("tool_call_id"),
        "name": wire.get("name"),
        **_old_call(wire),
    }


def _old_call(wire: Mapping[str, Any]) -> dict[str, Any]:
    name = wire.get("function_call_name")
    if not isinstance(name, str):
        return {}
    arguments = wire.get("function_call_arguments_json")
    return {"function_call": {"name": name, "arguments": arguments}}


def _part(wire: object) -> dict[str, Any]:
    if not isinstance(wire, dict):
        return {"type": "part"}
    kind = str(wire.get("type", "part"))
    image = wire.get("image")
    if isinstance(image, dict):
        inner = image.get("image")
        return {"type": "image_url", "image_url": inner if isinstance(inner, dict) else {}}
    text = wire.get("text")
    thought = {"reasoning": text} if kind == "reasoning" else {"text": text}
    return {"type": kind, **thought}


def _tools(about: Attributes) -> tuple[Any, ...]:
    wire = []
    for node in about.tree("llm.tools"):
        tool = node.get("tool") if isinstance(node, dict) else None
        schema = tool.get("json_schema") if isinstance(tool, dict) else None
        wire.append(json_or_none(schema) if isinstance(schema, str) else schema)
    return read_tools(wire)


def _tool_result(span: Span) -> Found:
    about = span.attributes
    metadata = about.parsed("metadata")
    call_id = about.text("tool_call.id", "tool.id")
    message, failed = read_tool_message(about.get("output.value"), call_id=call_id)
    return tool_result(
        span,
        message,
        failed=failed,
        call_id=call_id,
        thread_id=about.text("session.id") or conversation_id(metadata),
    )
