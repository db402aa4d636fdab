"""Tools for models whose chat template drops them: as text in the prompt, as JSON in the reply.

`render_tools` writes the schemas into the system prompt, `parse_reply` reads a JSON call back, and
`ToolsAsText` puts both around a chat model. A reply that was meant as a call but cannot be read
stays a malformed call: it is never lost, and never guessed at.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    HumanMessage,
    InvalidToolCall,
    SystemMessage,
    ToolCall,
    ToolMessage,
)
from langchain_core.runnables import Runnable, RunnableConfig
from pydantic import JsonValue

from rwml.schema import content_text

INSTRUCTION = (
    "To call a tool, reply with nothing but one JSON object, "
    '{"name": <tool name>, "arguments": {<argument name>: <value>}}. '
    "The result comes as the next user message. To speak to the user, reply with plain text."
)
_OPENING = re.compile(r"<tool_call>\s*|```(?:json|tool_call)?[ \t]*\n\s*", re.IGNORECASE)
_NAME = re.compile(r'"name"\s*:\s*"([^"\\]+)"')
_DECODER = json.JSONDecoder()


@dataclass(frozen=True)
class ParsedCall:
    """A tool call found in a reply.

    Attributes:
        name: the tool.
        arguments: its arguments; None when they were no JSON object.
        raw: the text of the call (of its arguments, where these alone were wrong).
    """

    name: str
    arguments: dict[str, JsonValue] | None
    raw: str


def render_tools(tools: Sequence[Mapping[str, Any]]) -> str:
    """The text that tells a model which tools there are and how to call them."""
    lines = [json.dumps(tool.get("function", tool), ensure_ascii=False) for tool in tools]
    return "\n".join(["# Tools", *lines, "", INSTRUCTION])


def render_call(name: str, arguments: Mapping[str, JsonValue]) -> str:
    """A call as the model is asked to write it."""
    return json.dumps({"name": name, "arguments": dict(arguments)}, ensure_ascii=False)


def parse_reply(text: str) -> tuple[str, tuple[ParsedCall, ...]]:
    """Finds tool calls in a reply: alone, in a ``json`` fence, or inside ``<tool_call>`` tags.

    Returns:
        The text before the first call (all of it when there is none), and the calls.
    """
    bare = text.strip()
    alone = _as_call(bare)
    if alone is not None:
        return "", (alone,)
    calls: list[ParsedCall] = []
    first, place = len(text), 0
    while (opening := _OPENING.search(text, place)) is not None:
        call, place = _call_at(text, opening)
        if call is not None:
            calls.append(call)
            first = min(first, opening.start())
    return (text[:first].strip(), tuple(calls)) if calls else (text, ())


class ToolsAsText(Runnable[Any, AIMessage]):
    """A chat model that is told about its tools in words.

    Args:
        model: any chat model; it never sees tool schemas, tool calls or tool messages.
        tools: OpenAI schemas.
    """

    def __init__(
        self, model: Runnable[Any, BaseMessage], tools: Sequence[Mapping[str, Any]]
    ) -> None:
        self._model = model
        self._tools = render_tools(tools)

    def invoke(
        self, input: Sequence[BaseMessage], config: RunnableConfig | None = None, **kwargs: Any
    ) -> AIMessage:
        """Asks the model; its text comes back as an AI message with tool calls."""
        return to_tool_calls(self._model.invoke(self.to_text(input), config, **kwargs))

    def to_text(self, messages: Sequence[BaseMessage]) -> list[BaseMessage]:
        """The conversation without tool messages: system prompt with tools, calls as JSON."""
        told: list[BaseMessage] = [SystemMessage(content=self._tools)]
        for message in messages:
            if isinstance(message, SystemMessage):
                merged = f"{content_text(message.content)}\n\n{told[0].content}"
                told[0] = SystemMessage(content=merged, id=message.id)
            elif isinstance(message, ToolMessage):
                _add_user_text(told, f"Tool result: {content_text(message.content)}", message.id)
            elif isinstance(message, HumanMessage):
                _add_user_text(told, content_text(message.content) or "", message.id)
            else:
                told.append(_call_as_text(message))
        return told


def to_tool_calls(reply: BaseMessage) -> AIMessage:
    """The reply with calls in its text made into tool calls; unchanged when it has none."""
    text, calls = parse_reply(content_text(reply.content) or "")
    answer = reply if isinstance(reply, AIMessage) else AIMessage(content=reply.content)
    if not calls:
        return answer
    ids = [f"{answer.id}-{n}" if answer.id else None for n in range(len(calls))]
    good = [
        ToolCall(name=call.name, args=call.arguments, id=ids[n], type="tool_call")
        for n, call in enumerate(calls)
        if call.arguments is not None
    ]
    bad = [
        InvalidToolCall(
            name=call.name,
            args=call.raw,
            id=ids[n],
            error="not a JSON object",
            type="invalid_tool_call",
        )
        for n, call in enumerate(calls)
        if call.arguments is None
    ]
    return AIMessage(
        content=text,
        tool_calls=good,
        invalid_tool_calls=bad,
        id=answer.id,
        response_metadata=answer.response_metadata,
        additional_kwargs=answer.additional_kwargs,
        usage_metadata=answer.usage_metadata,
    )


def _call_at(text: str, opening: re.Match[str]) -> tuple[ParsedCall | None, int]:
    """The call after an opening tag or fence, and where to look on."""
    start = opening.end()
    try:
        value, end = _DECODER.raw_decode(text, start)
    except (ValueError, RecursionError):
        closing = "</tool_call>" if opening.group().startswith("<") else "```"
        end = text.find(closing, start)
        raw = text[start : end if end >= 0 else len(text)].strip()
        name = _NAME.search(raw)
        return (ParsedCall(name.group(1), None, raw) if name else None), max(start, end)
    return _call_of(value), end


def _as_call(text: str) -> ParsedCall | None:
    if not text.startswith("{"):
        return None
    try:
        return _call_of(json.loads(text))
    except (ValueError, RecursionError):
        return None


def _call_of(value: object) -> ParsedCall | None:
    """A decoded JSON value as a call, or None when it is none."""
    if not isinstance(value, dict) or not isinstance(value.get("name"), str) or not value["name"]:
        return None
    if not value.keys() & {"arguments", "parameters"} and value.keys() != {"name"}:
        return None
    arguments = value.get("arguments", value.get("parameters"))
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except (ValueError, RecursionError):
            return ParsedCall(value["name"], None, str(value.get("arguments")))
    if arguments is None:
        arguments = {}
    if not isinstance(arguments, dict):
        return ParsedCall(value["name"], None, json.dumps(arguments, ensure_ascii=False))
    return ParsedCall(value["name"], arguments, json.dumps(arguments, ensure_ascii=False))


def _call_as_text(message: BaseMessage) -> BaseMessage:
    if not isinstance(message, AIMessage) or not message.tool_calls:
        return message
    calls = [render_call(call["name"], call["args"]) for call in message.tool_calls]
    if len(calls) > 1:
        calls = [f"<tool_call>\n{call}\n</tool_call>" for call in calls]
    text = content_text(message.content)
    lines = [text] if text and text.strip() else []
    if lines and len(calls) == 1:  # beside a text a bare object would not be read as a call
        calls = [f"<tool_call>\n{calls[0]}\n</tool_call>"]
    return AIMessage(content="\n".join([*lines, *calls]), id=message.id)


def _add_user_text(told: list[BaseMessage], text: str, message_id: str | None) -> None:
    """Appends to the last user message where there is one: many templates want turns."""
    if isinstance(told[-1], HumanMessage):
        told[-1] = HumanMessage(content=f"{told[-1].content}\n{text}", id=told[-1].id)
    else:
        told.append(HumanMessage(content=text, id=message_id))
