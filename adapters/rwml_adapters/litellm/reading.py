"""LiteLLM's callback arguments as completions. Pure functions; litellm itself is not needed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from pydantic import BaseModel

from rwml.assemble import Completion
from rwml.errors import SchemaError
from rwml.schema import Message, Provenance, Tool, Usage

_CHAT = ("completion", "acompletion")
_HIDDEN = "redacted-by-litellm"
"""What LiteLLM puts in place of texts where message logging is switched off."""


def to_completions(
    kwargs: Mapping[str, Any], response: Any, start_time: datetime, end_time: datetime
) -> tuple[Completion, ...]:
    """The completions of one call: one per choice, one without a response for a failed call.

    Args:
        kwargs: the call's details, as LiteLLM gives them to a `CustomLogger`.
        response: a `ModelResponse`, whole also where it was streamed; None for a failed call.
        start_time: local or aware time.
        end_time: local or aware time.

    Returns:
        Nothing for what is no chat completion, and where LiteLLM was told not to log messages.

    Raises:
        SchemaError: a message does not fit the schema.
    """
    wire = kwargs.get("messages")
    if kwargs.get("call_type") not in _CHAT or not isinstance(wire, list) or not wire:
        return ()
    messages = tuple(Message.from_openai(_plain(message)) for message in wire)
    answers = _answers(response)
    if any(message.content == _HIDDEN for message in (*messages, *(a for a in answers if a))):
        return ()
    session = _session(kwargs)
    started_at = start_time.astimezone(UTC)
    return tuple(
        Completion(
            messages=messages,
            response=answer,
            tools=_tools(kwargs),
            model=_text(getattr(response, "model", None)) or _text(kwargs.get("model")),
            usage=_usage(response) if place == 0 else None,
            started_at=started_at,
            latency_s=(end_time.astimezone(UTC) - started_at).total_seconds(),
            thread_id=session,
            provenance=Provenance(
                run_id=_text(kwargs.get("litellm_call_id")),
                thread_id=session,
                trace_id=_text(_metadata(kwargs).get("trace_id")),
            ),
        )
        for place, answer in enumerate(answers)
    )


def _answers(response: Any) -> Sequence[Message | None]:
    if response is None:
        return (None,)
    found = []
    for choice in getattr(response, "choices", None) or ():
        message = getattr(choice, "message", None)
        if message is not None:
            found.append(Message.from_openai(_plain(message)))
    return found


def _tools(kwargs: Mapping[str, Any]) -> tuple[Tool, ...]:
    """The functions that were offered; a provider's built-in tools are left out."""
    standard = kwargs.get("standard_logging_object") or {}
    places: Iterable[Any] = (
        kwargs.get("optional_params"),
        standard.get("model_parameters"),
        kwargs,
    )
    offered = next((p["tools"] for p in places if isinstance(p, Mapping) and p.get("tools")), ())
    found = []
    for tool in offered:
        try:
            found.append(Tool.from_openai(_plain(tool)))
        except (AttributeError, SchemaError, ValueError):
            continue
    return tuple(found)


def _usage(response: Any) -> Usage | None:
    counted = getattr(response, "usage", None)
    if counted is None:
        return None
    return Usage(
        prompt_tokens=getattr(counted, "prompt_tokens", None),
        completion_tokens=getattr(counted, "completion_tokens", None),
    )


def _metadata(kwargs: Mapping[str, Any]) -> Mapping[str, Any]:
    found = (kwargs.get("litellm_params") or {}).get("metadata")
    return found if isinstance(found, Mapping) else {}


def _session(kwargs: Mapping[str, Any]) -> str | None:
    """The conversation's id, only where the caller gave one; LiteLLM's own is new in each call."""
    given = (kwargs.get("litellm_params") or {}).get("litellm_session_id")
    about = _metadata(kwargs)
    return _text(given or about.get("session_id") or about.get("thread_id"))


def _plain(value: Any) -> Any:
    """A dict of a message or tool that is a pydantic model."""
    return value.model_dump(warnings=False) if isinstance(value, BaseModel) else value


def _text(value: object) -> str | None:
    return None if value is None or value == "" else str(value)
