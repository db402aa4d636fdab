"""Snapshots of LangChain's messages and tools as rwml's schema. Pure functions.

Text is kept, parts that are no text are kept as references; malformed tool arguments are kept raw.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from langchain_core.messages import AIMessage, ToolMessage
from langchain_core.outputs import LLMResult
from langchain_core.utils.function_calling import convert_to_openai_tool

from rwml.content import content_parts, content_text
from rwml.schema import Message, Role, Tool, ToolCall, Usage
from rwml.serialisation import make_message
from rwml_adapters.langchain.calls import Answer
from rwml_adapters.langchain.snapshots import OfferedTools, Snapshot

_ROLES: dict[str, Role] = {
    "human": "user",
    "HumanMessageChunk": "user",
    "ai": "assistant",
    "AIMessageChunk": "assistant",
    "system": "system",
    "SystemMessageChunk": "system",
    "tool": "tool",
    "ToolMessageChunk": "tool",
    "function": "tool",
}
_SAID_ROLES: tuple[Role, ...] = ("system", "developer", "user", "assistant", "tool")
_CALL_PARTS = {
    "tool_use",
    "tool_call",
    "tool_call_chunk",
    "invalid_tool_call",
    "function_call",
    "input_json_delta",
    "server_tool_call_chunk",
}
_REASONING_PARTS = {
    "thinking": ("thinking",),
    "reasoning": ("reasoning", "text", "summary"),
    "reasoning_content": ("reasoning_content",),
    "redacted_thinking": (),
}


def to_message(taken: Snapshot) -> Message:
    """One message; made once per snapshot."""
    if taken.message is None:
        is_action = taken.fields.get("type") in ("ai", "AIMessageChunk")
        taken.message = _assistant(taken.fields) if is_action else _other(taken.fields)
    return taken.message


def to_tools(offered: OfferedTools | None) -> tuple[Tool, ...]:
    """Tools of a call, in any form LangChain knows; a provider's built-ins are left out."""
    if offered is None:
        return ()
    if offered.read is None:
        found = []
        for tool in offered.copies:
            try:
                found.append(Tool.from_openai(convert_to_openai_tool(tool)))
            except (KeyError, TypeError, ValueError):
                continue
        offered.read = tuple(found)
    return offered.read


def answer_of(result: LLMResult) -> AIMessage | None:
    """The message of a finished chat-model call; None when it was no chat model."""
    generations = result.generations
    if not generations or not generations[0]:
        return None
    message = getattr(generations[0][0], "message", None)
    if type(message) is AIMessage or isinstance(message, AIMessage):  # the first is faster
        return message
    return None


def usage_of(answer: Answer) -> Usage | None:
    """Token counts, as the message or else the whole output reports them."""
    counted = answer.message.fields.get("usage_metadata")
    if counted:
        return Usage(
            prompt_tokens=counted.get("input_tokens"),
            completion_tokens=counted.get("output_tokens"),
        )
    reported = answer.message.fields.get("response_metadata") or {}
    counted = reported.get("token_usage") or (answer.output or {}).get("token_usage")
    if isinstance(counted, Mapping) and "prompt_tokens" in counted:
        return Usage(
            prompt_tokens=counted["prompt_tokens"],
            completion_tokens=counted.get("completion_tokens"),
        )
    return None


def model_of(answer: Answer) -> str | None:
    """The model that answered, as it names itself."""
    said = answer.message.fields.get("response_metadata") or {}
    model = said.get("model_name") or said.get("model") or (answer.output or {}).get("model_name")
    return str(model) if model else None


def tool_results(output: object) -> Iterator[ToolMessage]:
    """The tool messages in what a tool returned: itself, a list, or a Command's update."""
    if type(output) is ToolMessage or isinstance(output, ToolMessage):  # the first is faster
        yield output
    elif isinstance(output, list | tuple):
        for item in output:
            yield from tool_results(item)
    elif isinstance(output, Mapping):
        yield from tool_results(output.get("messages"))
    elif type(output).__name__ == "Command":  # langgraph's
        yield from tool_results(getattr(output, "update", None))


def model_answers(response: Any) -> Iterator[AIMessage]:
    """The model's messages in what a handler returned, in any form that it may have."""
    response = getattr(response, "model_response", response)
    result = getattr(response, "result", None)
    for message in result if isinstance(result, list) else [response]:
        if isinstance(message, AIMessage):
            yield message


def _other(fields: Mapping[str, Any]) -> Message:
    role: Role = _ROLES.get(str(fields.get("type"))) or "user"
    said = fields.get("role") or fields["additional_kwargs"].get("__openai_role__")
    if said in _SAID_ROLES:  # a ChatMessage's own, or OpenAI's developer
        role = said
    return make_message(
        content_text(fields["content"]),
        role=role,
        tool_call_id=fields.get("tool_call_id"),
        name=fields.get("name"),
        parts=content_parts(fields["content"]),
    )


def _assistant(fields: Mapping[str, Any]) -> Message:
    calls = [
        ToolCall(id=call.get("id") or "", name=call.get("name") or "", arguments=call["args"])
        for call in fields.get("tool_calls") or ()
    ] + [
        ToolCall(
            id=bad.get("id") or "", name=bad.get("name") or "", raw_arguments=bad.get("args") or ""
        )
        for bad in fields.get("invalid_tool_calls") or ()
    ]
    content = fields["content"]
    said, thoughts = _split([content] if isinstance(content, str) else content or [])
    text = content_text(said) or ""
    reasoning = fields["additional_kwargs"].get("reasoning_content")
    return make_message(
        text if text or not calls else None,
        role="assistant",
        tool_calls=tuple(calls),
        name=fields.get("name"),
        reasoning="".join((_plain(reasoning), *thoughts)) or None,
        parts=content_parts(said),
    )


def _split(content: Iterable[Any]) -> tuple[list[Any], list[str]]:
    """What was said, and what was thought; calls are in neither."""
    said: list[Any] = []
    thoughts: list[str] = []
    for part in content:
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind in _REASONING_PARTS:
            keys = _REASONING_PARTS[str(kind)]
            thoughts.append(next((_plain(part[key]) for key in keys if part.get(key)), ""))
        elif kind not in _CALL_PARTS:
            said.append(part)
    return said, thoughts


def _plain(thought: object) -> str:
    """Reasoning as text: providers give text, or parts with texts."""
    if isinstance(thought, Mapping):
        return _plain(thought.get("text") or thought.get("summary"))
    if isinstance(thought, list):
        return "".join(map(_plain, thought))
    return str(thought or "")
