"""One chat completion as logs and gateways see it: a request and what the model answered."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from pydantic import JsonValue

from rwml.schema import Message, Provenance, Tool, Usage


@dataclass(frozen=True, kw_only=True)
class Completion:
    """A request to a chat model and its response.

    Attributes:
        messages: the request, the whole history as it was sent.
        response: the assistant message; None where the call failed. A failed call is no step, but
            its request still says what came back of the action before.
        tools: tools that the request offered.
        failed_calls: ids of tool calls in `messages` whose results are known to be errors.
        model: the model that answered.
        usage: token counts.
        started_at: when the request was sent. Where given, it decides which of two branches came
            first, so that the order of arrival does not matter.
        latency_s: seconds from the request to the whole response.
        thread_id: the conversation's id. Histories of different threads are never linked; None is
            a scope of its own.
        provenance: where the call comes from.
        metadata: kept with the step.
    """

    messages: tuple[Message, ...]
    response: Message | None
    tools: tuple[Tool, ...] = ()
    failed_calls: frozenset[str] = frozenset()
    model: str | None = None
    usage: Usage | None = None
    started_at: datetime | None = None
    latency_s: float | None = None
    thread_id: str | None = None
    provenance: Provenance | None = None
    metadata: dict[str, JsonValue] = field(default_factory=dict)
