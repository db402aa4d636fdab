"""Anthropic's Messages API as chat messages. Pure functions.

Results of tools come inside a user's message there; here each is a message of its own, before what
the user said. Source: Anthropic's Messages API.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from rwml.schema import Message, ToolCall

_CALL, _RESULT, _THINKING = "tool_use", "tool_result", "thinking"


def read_messages(wire: Iterable[Any], *, system: object = None) -> tuple[Message, ...]:
    """A request's messages.

    Args:
        wire: as they were sent.
        system: the request's system prompt: a text, or text blocks.

    Raises:
        SchemaError: a message has a role that there is not.
    """
    messages: list[Message] = []
    if system:
        messages.append(Message.from_openai({"role": "system", "content": system}))
    for message in wire:
        if isinstance(message, Mapping):
            messages += _read_message(message)
    return tuple(messages)


def failed_calls(wire: Iterable[Any]) -> frozenset[str]:
    """Ids of the tool calls whose results are said to be errors."""
    return frozenset(
        str(block["tool_use_id"])
        for message in wire
        if isinstance(message, Mapping)
        for block in _blocks(message)
        if block.get("type") == _RESULT and block.get("is_error") and block.get("tool_use_id")
    )


def _read_message(message: Mapping[str, Any]) -> Iterable[Message]:
    content = message.get("content")
    blocks = _blocks(message)
    for block in blocks:
        if block.get("type") == _RESULT:
            yield _result(block)
    apart = (_CALL, _RESULT, _THINKING, "redacted_thinking")
    rest: Any = content
    if isinstance(content, list | tuple):
        rest = [b for b in content if not (isinstance(b, Mapping) and b.get("type") in apart)]
    calls = [
        ToolCall.from_openai(
            {"id": b.get("id"), "function": {"name": b.get("name"), "arguments": b.get("input")}}
        )
        for b in blocks
        if b.get("type") == _CALL
    ]
    thoughts = [str(b.get(_THINKING) or "") for b in blocks if b.get("type") == _THINKING]
    if rest or calls or not blocks:
        read = Message.from_openai({"role": message.get("role"), "content": rest or None})
        yield read.model_copy(
            update={"tool_calls": tuple(calls), "reasoning": "\n".join(thoughts) or None}
        )


def _result(block: Mapping[str, Any]) -> Message:
    content = block.get("content")
    if isinstance(content, Mapping):
        content = json.dumps(content, ensure_ascii=False, default=str)
    call_id = str(block.get("tool_use_id") or "")
    return Message.from_openai({"role": "tool", "content": content, "tool_call_id": call_id})


def _blocks(message: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    content = message.get("content")
    if not isinstance(content, list | tuple):
        return []
    return [block for block in content if isinstance(block, Mapping)]
