"""LangChain's messages, tools and tool outputs as rwml's schema. Pure functions.

Text is kept, parts that are no text are named; malformed tool arguments are kept raw.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage, ToolMessage
from langchain_core.outputs import LLMResult
from langchain_core.utils.function_calling import convert_to_openai_tool

from rwml.schema import Message, Role, Tool, ToolCall, Usage, content_text

_ROLES: dict[str, Role] = {
    "human": "user",
    "ai": "assistant",
    "AIMessageChunk": "assistant",
    "system": "system",
    "tool": "tool",
    "function": "tool",
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


def to_message(message: BaseMessage) -> Message:
    """One LangChain message as an rwml message."""
    if isinstance(message, AIMessage):
        return _assistant(message)
    role = _ROLES.get(message.type)
    if role is None:  # a ChatMessage says its role itself
        said = getattr(message, "role", "user")
        role = said if said in ("system", "developer", "user", "assistant", "tool") else "user"
    if message.additional_kwargs.get("__openai_role__") == "developer":
        role = "developer"
    return Message(
        role=role,
        content=content_text(message.content),
        tool_call_id=getattr(message, "tool_call_id", None),
        name=message.name,
    )


def to_action(result: LLMResult) -> tuple[Message, Usage | None, str | None] | None:
    """Action, usage and model of a finished chat-model call; None when it was no chat model."""
    generations = [generation for batch in result.generations for generation in batch]
    message = getattr(generations[0], "message", None) if generations else None
    if not isinstance(message, AIMessage):
        return None
    output = result.llm_output or {}
    reported = message.response_metadata
    counted = reported.get("token_usage") or output.get("token_usage") or {}
    usage = None
    if message.usage_metadata:
        usage = Usage(
            prompt_tokens=message.usage_metadata["input_tokens"],
            completion_tokens=message.usage_metadata["output_tokens"],
        )
    elif isinstance(counted, Mapping) and "prompt_tokens" in counted:
        usage = Usage(
            prompt_tokens=counted["prompt_tokens"],
            completion_tokens=counted.get("completion_tokens"),
        )
    model = reported.get("model_name") or reported.get("model") or output.get("model_name")
    return to_message(message), usage, str(model) if model else None


def to_tools(tools: Iterable[Any]) -> tuple[Tool, ...]:
    """Tools of a model call, in any form LangChain knows; a provider's built-ins are left out."""
    found = []
    for tool in tools:
        try:
            found.append(Tool.from_openai(convert_to_openai_tool(tool)))
        except (KeyError, TypeError, ValueError):
            continue
    return tuple(found)


def error_ids(messages: Iterable[BaseMessage]) -> frozenset[str]:
    """Ids of the tool calls whose results say that they are errors."""
    results = (message for message in messages if isinstance(message, ToolMessage))
    return frozenset(result.tool_call_id for result in results if result.status == "error")


def tool_results(output: object) -> Iterator[ToolMessage]:
    """The tool messages in what a tool returned: itself, a list, or a Command's update."""
    if isinstance(output, ToolMessage):
        yield output
    elif isinstance(output, list | tuple):
        for item in output:
            yield from tool_results(item)
    elif isinstance(output, Mapping):
        yield from tool_results(output.get("messages"))
    elif type(output).__name__ == "Command":  # langgraph's
        yield from tool_results(getattr(output, "update", None))


def _assistant(message: AIMessage) -> Message:
    calls = [
        ToolCall(
            id=call["id"] or "",
            name=call["name"],
            arguments=json.loads(json.dumps(call["args"], default=str)),
        )
        for call in message.tool_calls
    ] + [
        ToolCall(id=bad["id"] or "", name=bad["name"] or "", raw_arguments=bad["args"] or "")
        for bad in message.invalid_tool_calls
    ]
    texts: list[Any] = []
    thoughts = [message.additional_kwargs.get("reasoning_content") or ""]
    for part in [message.content] if isinstance(message.content, str) else message.content:
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind in _REASONING_PARTS and isinstance(part, Mapping):
            thoughts.append(str(part.get(_REASONING_PARTS[kind]) or ""))
        elif kind not in _CALL_PARTS:
            texts.append(part)
    text = content_text(texts) or ""
    return Message(
        role="assistant",
        content=text if text or not calls else None,
        tool_calls=tuple(calls),
        name=message.name,
        reasoning="".join(thoughts) or None,
    )
