"""Chat messages, tools, usage and times as logs write them, in rwml's schema. Pure functions.

Understood are OpenAI's form, LangChain's three serialisations, and the parts of OTel's GenAI
conventions. Everything becomes an OpenAI-style dict first, so that there is one reading of content.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from rwml.assemble import History
from rwml.errors import SchemaError
from rwml.ingest.records import parse_json
from rwml.schema import Message, Tool, Usage

Wire = Mapping[str, Any]

_ROLES = {
    "human": "user",
    "HumanMessage": "user",
    "HumanMessageChunk": "user",
    "ai": "assistant",
    "AIMessage": "assistant",
    "AIMessageChunk": "assistant",
    "model": "assistant",
    "function": "tool",
    "FunctionMessage": "tool",
    "ToolMessage": "tool",
    "SystemMessage": "system",
}
_CALL_PARTS = {
    "tool_use",
    "tool_call",
    "tool_call_chunk",
    "invalid_tool_call",
    "function_call",
    "input_json_delta",
}
_REASONING_PARTS = {"thinking": "thinking", "reasoning": "reasoning"}


def read_messages(wire: object) -> tuple[tuple[Message, ...], frozenset[str]]:
    """The messages of a request, and the ids of tool calls whose results say they are errors.

    Args:
        wire: a list of messages, JSON text of one, an object with ``messages``, a bare text, or
            a history that was read already.

    Raises:
        SchemaError: it is none of these, or a message does not fit the schema.
    """
    if isinstance(wire, History):
        return wire.messages, wire.failed_calls
    found: list[Message] = []
    failed: set[str] = set()
    for message in listed(wire):
        for plain in to_openai(message):
            found.append(Message.from_openai(plain))
            if plain.get("failed"):
                failed.add(str(plain.get("tool_call_id")))
    return tuple(found), frozenset(failed)


def read_answer(wire: object) -> Message | None:
    """The one assistant message in what a model returned; None where there is nothing.

    Args:
        wire: a message, JSON text of one, a list of which the first counts, or a bare text.

    Raises:
        SchemaError: it does not fit the schema, or somebody else speaks.
    """
    if wire is None or wire in ("", [], {}):
        return None
    first = listed(wire, speaker="assistant")[:1]
    messages = [Message.from_openai(plain) for plain in to_openai(first[0])] if first else []
    if not messages:
        return None
    if messages[0].role != "assistant":
        raise SchemaError("the response is no assistant message")
    return messages[0]


def listed(wire: object, *, speaker: str = "user") -> list[Any]:
    """The messages in what may be a list, JSON text, an object with ``messages``, or a text.

    Args:
        speaker: who says what has no role.
    """
    if isinstance(wire, str):
        parsed = json_or_none(wire)
        wire = parsed if _holds_messages(parsed) else {"role": speaker, "content": wire}
    if isinstance(wire, Mapping):
        inner = wire.get("messages")
        if isinstance(inner, list):
            wire = inner
        elif _holds_messages(wire):
            wire = [wire]
        elif "content" in wire or "tool_calls" in wire:
            wire = [{**wire, "role": speaker}]
        else:
            wire = [{"role": speaker, "content": json.dumps(wire, ensure_ascii=False)}]
    if not isinstance(wire, list):
        raise SchemaError("the messages are no list")
    if wire and isinstance(wire[0], list) and not _is_pair(wire[0]):
        return wire[0]  # LangChain's batch of one
    return wire


def _holds_messages(value: object) -> bool:
    """Whether parsed JSON is a message or several, and not just an answer in JSON."""
    if isinstance(value, Mapping):
        kind = value.get("type")
        known = isinstance(kind, str) and (kind in _ROLES or kind in _ROLES.values())
        return known or any(key in value for key in ("role", "lc", "parts", "messages"))
    return isinstance(value, list) and bool(value) and _holds_messages(value[0])


def to_openai(wire: object) -> Iterator[dict[str, Any]]:
    """One message in any form, as OpenAI-style dicts; a result that failed has ``failed``.

    Raises:
        SchemaError: it is no message.
    """
    if isinstance(wire, list | tuple) and _is_pair(wire):
        wire = {"role": wire[0], "content": wire[1]}
    if isinstance(wire, str):
        wire = {"role": "user", "content": wire}
    if not isinstance(wire, Mapping):
        raise SchemaError("a message is no object")
    inner, data = wire.get("kwargs"), wire.get("data")
    if isinstance(inner, Mapping) and "lc" in wire:
        names = wire.get("id")
        wire = {"type": names[-1] if isinstance(names, list) and names else "", **inner}
    elif isinstance(data, Mapping) and "role" not in wire:
        wire = {"type": wire.get("type"), **data}
    if wire.get("type") in ("remove", "RemoveMessage"):
        return
    if isinstance(wire.get("parts"), list):
        yield from _of_parts(wire)
    else:
        yield _of_content(wire)


def read_tools(wire: object) -> tuple[Tool, ...]:
    """The tools of a request, in any form; those that are no functions are left out.

    Args:
        wire: a list of tools, its JSON text, or tools that were read already.
    """
    if isinstance(wire, tuple):
        return wire
    if isinstance(wire, list) and wire:
        wire = json.dumps(wire)
    return _tools(wire) if isinstance(wire, str) and wire else ()


def read_usage(wire: object) -> Usage | None:
    """Token counts under any of the names in use."""
    if not isinstance(wire, Mapping):
        return None
    prompt = _count(wire, "prompt_tokens", "input_tokens", "input", "promptTokens")
    completion = _count(wire, "completion_tokens", "output_tokens", "output", "completionTokens")
    if prompt is None and completion is None:
        return None
    return Usage(prompt_tokens=prompt, completion_tokens=completion)


def read_time(value: object) -> datetime | None:
    """A point in time: ISO 8601 (UTC where it does not say), or seconds, ms, us, ns since 1970."""
    if isinstance(value, str):
        if value.isascii() and value.isdigit() and len(value) < 20:
            return read_time(int(value))
        try:
            parsed = datetime.fromisoformat(value)
            return parsed.replace(tzinfo=UTC) if parsed.tzinfo is None else parsed.astimezone(UTC)
        except (OverflowError, ValueError):
            return None
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < 1e20:
        return None
    # Seconds have 10 digits until 2286: more are of a smaller unit.
    unit = 10 ** (3 * max(0, math.ceil((math.log10(value) - 10) / 3)))
    try:
        return datetime.fromtimestamp(value / unit, UTC)
    except (OSError, OverflowError, ValueError):
        return None


def seconds_between(start: datetime | None, end: datetime | None) -> float | None:
    """Seconds from start to end, where both are known and in order."""
    if start is None or end is None or end < start:
        return None
    return (end - start).total_seconds()


def json_or_none(text: object) -> Any:
    """What a JSON text says; None where it is none."""
    if not isinstance(text, str):
        return None
    try:
        return parse_json(text)
    except (ValueError, RecursionError):
        return None


def text_or_none(value: object) -> str | None:
    """A text, or a number as text; None where there is nothing to show."""
    if isinstance(value, str):
        return value or None
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else None


def _of_content(wire: Wire) -> dict[str, Any]:
    more = wire.get("additional_kwargs")
    more = more if isinstance(more, Mapping) else {}
    role = _role(wire, more)
    content, calls = wire.get("content"), list(_calls(wire, more))
    message: dict[str, Any] = {"role": role, "name": wire.get("name")}
    if role == "assistant":
        content, thoughts = _without_thoughts(content)
        given = wire.get("reasoning") or wire.get("reasoning_content")
        thoughts = (given or more.get("reasoning_content"), *thoughts)
        message["reasoning"] = "".join(t for t in thoughts if isinstance(t, str)) or None
        message["tool_calls"] = calls
        if calls and content in ("", []):
            content = None
    elif role == "tool":
        message["tool_call_id"] = wire.get("tool_call_id") or _function_id(wire.get("name"))
        message["failed"] = wire.get("status") == "error"
        if isinstance(content, Mapping) and "type" not in content:
            content = json.dumps(content, ensure_ascii=False)
    return {**message, "content": content}


def _role(wire: Wire, more: Wire) -> str:
    said = wire.get("role") or wire.get("type") or ""
    if more.get("__openai_role__") == "developer":
        return "developer"
    return _ROLES.get(said, said) if isinstance(said, str) else ""


def _calls(wire: Wire, more: Wire) -> Iterator[Wire]:
    """Tool calls in OpenAI's form: LangChain's, OpenAI's, and the old single function call."""
    made = wire.get("tool_calls") or more.get("tool_calls") or ()
    for call in [*_objects(made), *_objects(wire.get("invalid_tool_calls") or ())]:
        if isinstance(call.get("function"), Mapping):
            yield call
        else:
            arguments = call.get("args", call.get("arguments"))
            yield {
                "id": call.get("id"),
                "function": {"name": call.get("name"), "arguments": arguments},
            }
    old = wire.get("function_call")
    if isinstance(old, Mapping):
        yield {"id": _function_id(old.get("name")), "function": old}


def _function_id(name: object) -> str | None:
    """The old function calls have no id: their name pairs them."""
    return f"function:{name}" if isinstance(name, str) and name else None


def _without_thoughts(content: object) -> tuple[object, tuple[Any, ...]]:
    """Content parts without reasoning and without calls, which are told apart from content."""
    if not isinstance(content, list):
        return content, ()
    kinds = [part.get("type") if isinstance(part, Mapping) else None for part in content]
    if not any(kind in _CALL_PARTS or kind in _REASONING_PARTS for kind in kinds):
        return content, ()
    thoughts = tuple(
        part.get(_REASONING_PARTS[kind])
        for part, kind in zip(content, kinds, strict=True)
        if kind in _REASONING_PARTS
    )
    left = [
        part
        for part, kind in zip(content, kinds, strict=True)
        if kind not in _CALL_PARTS and kind not in _REASONING_PARTS
    ]
    return left or "", thoughts


def _of_parts(wire: Wire) -> Iterator[dict[str, Any]]:
    """A message of OTel's GenAI conventions; each tool result becomes a message of its own."""
    role = _role(wire, {})
    content: list[Any] = []
    calls: list[Wire] = []
    thoughts: list[str] = []
    results: list[dict[str, Any]] = []
    for part in _objects(wire["parts"]):
        kind = part.get("type")
        if kind == "text":
            content.append({"type": "text", "text": _text(part.get("content"))})
        elif kind == "reasoning":
            thoughts.append(_text(part.get("content")))
        elif kind == "tool_call":
            function = {"name": part.get("name"), "arguments": part.get("arguments")}
            calls.append({"id": part.get("id"), "function": function})
        elif kind == "tool_call_response":
            said = part.get("response", part.get("result"))
            answer = {"role": "tool", "tool_call_id": part.get("id"), "content": _text(said)}
            results.append({**answer, "name": wire.get("name")})
        else:
            content.append(part)
    yield from results
    if content or calls or thoughts or not results:
        plain = all(part.get("type") == "text" for part in content)
        text: Any = "".join(part["text"] for part in content) if plain else content
        yield {
            "role": role,
            "name": wire.get("name"),
            "content": None if calls and not content else text,
            "tool_calls": calls if role == "assistant" else (),
            "reasoning": "".join(thoughts) or None,
        }


def _text(value: object) -> str:
    if value is None or isinstance(value, str):
        return value or ""
    return json.dumps(value, ensure_ascii=False)


def _objects(values: object) -> Iterable[Wire]:
    if not isinstance(values, list | tuple):
        return ()
    return (value for value in values if isinstance(value, Mapping))


def _is_pair(value: object) -> bool:
    """Whether it is ``["user", "text"]``, LangChain's short form of a message."""
    return (
        isinstance(value, list | tuple)
        and len(value) == 2
        and all(isinstance(each, str) for each in value)
    )


def _count(wire: Wire, *names: str) -> int | None:
    for name in names:
        value = wire.get(name)
        if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 16:
            value = int(value)
        if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 2**53:
            return int(value)
    return None


@lru_cache(maxsize=256)  # the same few sets of tools come with every record
def _tools(text: str) -> tuple[Tool, ...]:
    wire = json_or_none(text)
    found: list[Tool] = []
    for tool in _objects(wire if isinstance(wire, list) else [wire]):
        function = tool.get("function", tool)
        if not isinstance(function, Mapping):
            continue
        parameters = function.get("parameters") or function.get("input_schema")
        parameters = json_or_none(parameters) if isinstance(parameters, str) else parameters
        named = {**function, "parameters": parameters if isinstance(parameters, Mapping) else {}}
        try:
            found.append(Tool.from_openai({"function": named}))
        except (SchemaError, TypeError, ValueError):
            continue
    return tuple(found)
