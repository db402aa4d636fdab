"""OpenAI's Responses API as chat messages: items in, items out, and histories kept by the server.

The items of one turn (reasoning, calls, texts) are one assistant message, and read the same whether
they come as an answer or in a later request's history. A history that only the server has is known
here as far as this process saw it. Pure but for `Histories`. Source: OpenAI's Responses API.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel

from rwml.schema import Message, ToolCall

KEPT_RESPONSES = 10_000
"""Histories remembered by the id of their last response (ours)."""
KEPT_CHARS = 64 << 20
"""Characters in them, counted once per history though they share messages (ours)."""
_CALLS = ("function_call", "custom_tool_call")
_MADE_BY_THE_MODEL = re.compile(r".*_call|mcp_list_tools|mcp_approval_request|item_reference")
_LITELLM_ID = re.compile(r"litellm:.*;response_id:(.+)", re.DOTALL)


def read_items(items: object, *, instructions: object = None) -> tuple[Message, ...]:
    """Input or output items as messages.

    Args:
        items: a text, or a list of items (dicts or models of litellm or openai).
        instructions: the request's system prompt.

    Raises:
        SchemaError: an item has a role that no message has.
    """
    messages: list[Message] = []
    if instructions:
        messages.append(Message(role="system", content=str(instructions)))
    if isinstance(items, str):
        return (*messages, Message(role="user", content=items))
    turn = _Turn()
    for item in map(plain, items if isinstance(items, Iterable) else ()):
        if not isinstance(item, Mapping) or turn.takes(item):
            continue
        messages += turn.end()
        messages.append(_from_outside(item))
    return (*messages, *turn.end())


def read_answer(output: object) -> Message:
    """The output items of one response as the assistant's message."""
    made = [message for message in read_items(output) if message.role == "assistant"]
    return made[0] if len(made) == 1 else Message(role="assistant")


def plain(value: Any) -> Any:
    """A dict of what is a pydantic model; anything else as it is."""
    return value.model_dump(warnings=False) if isinstance(value, BaseModel) else value


@dataclass
class _Turn:
    """What the model has said since somebody else spoke."""

    texts: list[str] = field(default_factory=list)
    reasoning: list[str] = field(default_factory=list)
    calls: list[ToolCall] = field(default_factory=list)

    def takes(self, item: Mapping[str, Any]) -> bool:
        """Whether the item is the model's; what is no message or call is named by its type."""
        kind = str(item.get("type") or "message")
        if kind == "message":
            if item.get("role") != "assistant":
                return False
            self.texts.append(_text(item.get("content")))
        elif kind == "reasoning":
            parts = [*(item.get("summary") or ()), *(item.get("content") or ())]
            self.reasoning += [str(p["text"]) for p in map(plain, parts) if p.get("text")]
        elif kind in _CALLS:
            function = {
                "name": item.get("name"),
                "arguments": item.get("arguments" if kind == "function_call" else "input"),
            }
            call_id = item.get("call_id") or item.get("id")
            self.calls.append(ToolCall.from_openai({"id": call_id, "function": function}))
        elif _MADE_BY_THE_MODEL.fullmatch(kind):
            self.texts.append(f"[{kind}]")
        else:
            return False
        return True

    def end(self) -> list[Message]:
        """The turn as a message, if there was one; the next turn begins."""
        said = bool(self.texts or self.calls)
        message = Message(
            role="assistant",
            content="\n".join(self.texts) if self.texts else None,
            tool_calls=tuple(self.calls),
            reasoning="\n".join(self.reasoning) or None,
        )
        self.texts, self.reasoning, self.calls = [], [], []
        return [message] if said else []


def _from_outside(item: Mapping[str, Any]) -> Message:
    """A user's or system's message, or a result; anything else is named by its type."""
    kind = str(item.get("type") or "message")
    if kind == "message":
        return Message.from_openai({"role": item.get("role"), "content": item.get("content")})
    if kind.endswith("_output") and item.get("call_id"):
        output = item.get("output")
        if isinstance(output, Mapping):
            output = json.dumps(output, ensure_ascii=False, default=str)
        return Message.from_openai(
            {"role": "tool", "content": output, "tool_call_id": str(item["call_id"])}
        )
    return Message(role="user", content=f"[{kind}]")


def _text(content: object) -> str:
    if isinstance(content, list | tuple):
        parts = [plain(part) for part in content]
        content = [
            {"type": "text", "text": p.get("refusal")} if _is_refusal(p) else p for p in parts
        ]
    return Message.from_openai({"role": "assistant", "content": content}).content or ""


def _is_refusal(part: object) -> bool:
    return isinstance(part, Mapping) and part.get("type") == "refusal"


class Histories:
    """What was said up to each response, for requests that name it instead of repeating it.

    Safe to share between threads.

    Args:
        kept: how many histories are remembered; the least recently used goes first.
        kept_chars: how many characters they may have together.
    """

    def __init__(self, *, kept: int = KEPT_RESPONSES, kept_chars: int = KEPT_CHARS) -> None:
        self._kept, self._kept_chars = kept, kept_chars
        self._chars = 0
        self._lock = threading.Lock()
        self._known: OrderedDict[str, tuple[tuple[Message, ...], int]] = OrderedDict()

    def remember(self, names: Iterable[object], history: tuple[Message, ...]) -> None:
        """Keeps a history under the ids of its last response, or of its conversation."""
        size = sum(len(m.content or "") + len(m.reasoning or "") for m in history) + len(history)
        with self._lock:
            for name in {canonical_id(name) for name in names if name}:
                self._chars += size - self._known.pop(name, ((), 0))[1]
                self._known[name] = (history, size)
            while self._known and (len(self._known) > self._kept or self._chars > self._kept_chars):
                self._chars -= self._known.popitem(last=False)[1][1]

    def find(self, name: object) -> tuple[Message, ...] | None:
        """The history up to this response; None where it is not known (any more)."""
        with self._lock:
            found = self._known.get(canonical_id(name))
            if found is None:
                return None
            self._known.move_to_end(canonical_id(name))
            return found[0]


def canonical_id(name: object) -> str:
    """A response's id as its provider made it: LiteLLM wraps it with the deployment's."""
    given = str(name)
    try:
        inner = base64.b64decode(given.removeprefix("resp_"), validate=True).decode()
    except (binascii.Error, ValueError):
        return given
    wrapped = _LITELLM_ID.fullmatch(inner)
    return wrapped[1] if wrapped else given
