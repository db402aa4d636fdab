"""Translates between tau2's messages and LangChain's, and says what must be recorded.

tau2 wants a text or tool calls, never both, never neither, and never ``tool_calls=[]``. Real models
answer all of these, so a reply is made valid here, and what it was is kept as the step's record.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from langchain_core.messages import ToolMessage as LangChainToolMessage
from pydantic import JsonValue
from tau2.data_model.message import (
    AssistantMessage,
    Message,
    MultiToolMessage,
    ToolMessage,
    UserMessage,
)
from tau2.data_model.message import ToolCall as Tau2ToolCall

from rwml.schema import Message as RecordedMessage
from rwml.schema import Step, ToolCall, Usage, content_text

EMPTY_REPLY_TEXT = "I am sorry, I have no answer to that. Could you please say it again?"
"""Sent in place of an empty reply, which tau2 refuses (ours)."""
MALFORMED_ARGUMENT = "malformed_arguments"
"""The argument a call with unreadable arguments is made with: no tool takes it, so it fails."""
RECORD_KEY = "rwml_step"
"""Where a tau2 message's ``raw_data`` keeps the recorded step."""


@dataclass(frozen=True)
class Reply:
    """A model's reply, made valid.

    Attributes:
        sent: what tau2 gets.
        history: what the model sees of it in later turns.
        step: what is recorded of it.
    """

    sent: AssistantMessage
    history: AIMessage
    step: Step

    def with_record(self) -> AssistantMessage:
        """What tau2 gets, with the step in its ``raw_data``: tau2's own files keep it."""
        self.sent.raw_data = {RECORD_KEY: self.step.model_dump(mode="json", exclude_defaults=True)}
        return self.sent


def to_langchain(message: Message, *, first_id: int, prefix: str) -> list[BaseMessage]:
    """LangChain form of one tau2 message, with ids that stay the same in every turn."""
    parts = message.tool_messages if isinstance(message, MultiToolMessage) else [message]
    return [_to_langchain(part, f"{prefix}-{first_id + place}") for place, part in enumerate(parts)]


def to_reply(
    message: AIMessage, *, turn: int, started_at: datetime | None, latency_s: float | None
) -> Reply:
    """Makes a model's reply valid for tau2, keeping what it was.

    Args:
        message: the reply; its text is not sent when it has tool calls.
        turn: number of the reply in the episode, for the ids of calls that have none.
        started_at: when it was asked for (UTC).
        latency_s: seconds it took.
    """
    text = _encodable(content_text(message.content) or "")
    calls = _calls(message, turn)
    metadata: dict[str, JsonValue] = {}
    if any(call.raw_arguments is not None for call in calls):
        metadata["malformed_arguments"] = True
    if calls and text.strip():
        metadata["text_not_sent"] = True
    if not calls and not text.strip():
        metadata["replaced_empty_reply"] = True
        text = EMPTY_REPLY_TEXT
    step = Step(
        index=0,
        action=RecordedMessage(
            role="assistant",
            content=text if text.strip() else None,
            tool_calls=tuple(calls),
            reasoning=_reasoning(message),
        ),
        started_at=started_at,
        latency_s=latency_s,
        model=_model_name(message),
        usage=_usage(message),
        metadata=metadata,
    )
    sent = AssistantMessage(
        role="assistant",
        content=None if calls else text,
        tool_calls=[_tau2_call(call) for call in calls] or None,
        cost=0.0,
    )
    return Reply(sent=sent, history=_history(message, text, calls), step=step)


def _to_langchain(message: Message, message_id: str) -> BaseMessage:
    if isinstance(message, UserMessage):
        return HumanMessage(content=message.content or "", id=message_id)
    if isinstance(message, ToolMessage):
        return LangChainToolMessage(
            content=message.content or "",
            tool_call_id=message.id,
            id=message_id,
            status="error" if message.error else "success",
        )
    if isinstance(message, AssistantMessage):
        calls = [
            {"id": call.id, "name": call.name, "args": call.arguments, "type": "tool_call"}
            for call in message.tool_calls or ()
        ]
        return AIMessage(content=message.content or "", tool_calls=calls, id=message_id)
    raise TypeError(f"an agent gets no {type(message).__name__}")


def _calls(message: AIMessage, turn: int) -> list[ToolCall]:
    found: list[ToolCall] = []
    seen: set[str] = set()
    wire: Sequence[tuple[Any, Any, Any]] = [
        (call.get("id"), call.get("name"), call.get("args"))
        for call in (*message.tool_calls, *message.invalid_tool_calls)
    ]
    for place, (call_id, name, arguments) in enumerate(wire):
        unique = str(call_id) if call_id and call_id not in seen else f"call_{turn}_{place}"
        seen.add(unique)
        found.append(
            ToolCall.from_openai(
                {"id": unique, "function": _encodable({"name": name, "arguments": arguments})}
            )
        )
    return found


def _tau2_call(call: ToolCall) -> Tau2ToolCall:
    return Tau2ToolCall(
        id=call.id, name=call.name, arguments=_sent_arguments(call), requestor="assistant"
    )


def _sent_arguments(call: ToolCall) -> dict[str, JsonValue]:
    if call.raw_arguments is not None:
        return {MALFORMED_ARGUMENT: call.raw_arguments}
    return dict(call.arguments)


def _history(message: AIMessage, text: str, calls: list[ToolCall]) -> AIMessage:
    """The reply as it is, or rebuilt where ids, arguments or an empty text were replaced."""
    unchanged = (
        not message.invalid_tool_calls
        and [(call.get("id"), call.get("args")) for call in message.tool_calls]
        == [(call.id, call.arguments) for call in calls]
        and text == (content_text(message.content) or "")
    )
    if unchanged:
        return message
    wire = [
        {"id": call.id, "name": call.name, "args": _sent_arguments(call), "type": "tool_call"}
        for call in calls
    ]
    return AIMessage(content=text, tool_calls=wire, id=message.id)


def _encodable(value: Any) -> Any:
    """The JSON value with lone surrogates replaced, which no store or wire can hold.

    A model writes one as the escape of half an emoji in a call's arguments.
    """
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, list):
        return [_encodable(item) for item in value]
    if isinstance(value, dict):
        return {_encodable(key): _encodable(item) for key, item in value.items()}
    return value


def _reasoning(message: AIMessage) -> str | None:
    value = message.additional_kwargs.get("reasoning_content")
    return _encodable(value) if isinstance(value, str) and value else None


def _model_name(message: AIMessage) -> str | None:
    metadata = message.response_metadata
    name = metadata.get("model_name") or metadata.get("model")
    return name if isinstance(name, str) else None


def _usage(message: AIMessage) -> Usage | None:
    usage = message.usage_metadata
    if not usage:
        return None
    return Usage(
        prompt_tokens=usage.get("input_tokens"), completion_tokens=usage.get("output_tokens")
    )
