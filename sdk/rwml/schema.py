"""The data model: what a trajectory is, what a transition is, and nothing else.

Frozen pydantic models, independent of every framework; the wire format is OpenAI chat. A
`Trajectory` is what was recorded; a `Transition` is its training view, always derived and never
stored (RWML sec. 2.1: context ``s<=t``, action ``a_t``, next state ``s_t+1``). This module must
import nothing of rwml but its errors and the parts that it is made of.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any, Literal

from pydantic import Field, JsonValue, ValidationError
from pydantic_core import from_json, to_json

from rwml.content import Frozen, Part, content_parts, content_text, is_real, is_simulated
from rwml.errors import SchemaError
from rwml.provenance import Fingerprint, Provenance, Usage

SCHEMA_VERSION = 1
"""Version of the stored shape. A store written by a newer version is refused."""

NOT_RECORDED_KEY = "not_recorded"
"""Metadata key under which a record names the tools whose part was left out."""

Role = Literal["system", "developer", "user", "assistant", "tool"]
Kind = Literal["tool", "user", "environment"]
"""Who answered the action: a tool, a person (or their simulator), or a text environment."""
StepStatus = Literal["ok", "error", "interrupted", "pending"]
OutcomeStatus = Literal["completed", "truncated", "infrastructure_error", "unknown"]


class ToolCall(Frozen):
    """One call of a tool, as the model asked for it.

    Attributes:
        id: the call's id, which its result repeats as ``tool_call_id``.
        name: name of the tool.
        arguments: parsed arguments; empty when the text was not a JSON object.
        raw_arguments: the argument text as it came, only when it was not a JSON object.
    """

    id: str
    name: str
    arguments: dict[str, JsonValue] = Field(default_factory=dict)
    raw_arguments: str | None = None

    @classmethod
    def from_openai(cls, wire: Mapping[str, Any]) -> ToolCall:
        """Reads an OpenAI tool call; malformed argument text is kept raw, never lost."""
        function = wire.get("function") or {} if isinstance(wire, Mapping) else None
        if not isinstance(function, Mapping):
            raise SchemaError("a tool call must be a dict with 'id' and 'function'")
        arguments = function.get("arguments", "")
        call_id, name = str(wire.get("id") or ""), str(function.get("name") or "")
        if isinstance(arguments, Mapping):
            return cls(id=call_id, name=name, arguments=dict(arguments))
        text = "" if arguments is None else str(arguments)
        if not text.strip():
            return cls(id=call_id, name=name)
        try:
            parsed = from_json(text, allow_inf_nan=False)
            again = b"[" * 16 + to_json(parsed, inf_nan_mode="constants") + b"]" * 16
            from_json(again, allow_inf_nan=False)  # the depth that a record around it needs
            if isinstance(parsed, dict):
                return cls(id=call_id, name=name, arguments=parsed)
        except (TypeError, ValueError):  # no JSON, or none that can be stored and read again
            pass
        return cls(id=call_id, name=name, raw_arguments=text)

    def to_openai(self) -> dict[str, JsonValue]:
        """The OpenAI form: arguments as JSON text, exactly as it came where it was malformed."""
        return {
            "id": self.id,
            "type": "function",
            "function": {"name": self.name, "arguments": self.arguments_text},
        }

    @property
    def arguments_text(self) -> str:
        """Arguments as JSON text, or the raw text where it was malformed."""
        if self.raw_arguments is not None:
            return self.raw_arguments
        return json.dumps(self.arguments, ensure_ascii=False)


class Message(Frozen):
    """An OpenAI chat message.

    Attributes:
        role: who speaks.
        content: the text; None when there is none (an assistant message of tool calls only).
        tool_calls: calls of an assistant message, in the model's order.
        tool_call_id: for a tool message, the call it answers.
        name: name of the tool or speaker, where given.
        reasoning: the model's reasoning, kept apart from the content.
        parts: the parts that are no text, in order; the content names each as ``[type]``.
    """

    role: Role
    content: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    name: str | None = None
    reasoning: str | None = None
    parts: tuple[Part, ...] = ()

    @classmethod
    def from_openai(cls, wire: Mapping[str, Any] | Message) -> Message:
        """Reads an OpenAI-style message (a `Message` passes through).

        Raises:
            SchemaError: the role is unknown or a field has the wrong type.
        """
        if isinstance(wire, Message):
            return wire
        if not isinstance(wire, Mapping):
            raise SchemaError(
                f"a message must be a dict with 'role' and 'content' or an rwml.Message, "
                f"not {type(wire).__name__}"
            )
        try:
            return cls(
                role=wire.get("role"),  # type: ignore[arg-type]  # validated by pydantic
                content=content_text(wire.get("content")),
                tool_calls=tuple(ToolCall.from_openai(c) for c in wire.get("tool_calls") or ()),
                tool_call_id=wire.get("tool_call_id"),
                name=wire.get("name"),
                reasoning=wire.get("reasoning") or wire.get("reasoning_content"),
                parts=content_parts(wire.get("content")),
            )
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise SchemaError(f"not a chat message: {where}: {first['msg']}") from error

    def to_openai(self) -> dict[str, JsonValue]:
        """The OpenAI form, without the fields that are not set."""
        wire: dict[str, JsonValue] = {"role": self.role, "content": self.content}
        if self.tool_calls:
            wire["tool_calls"] = [call.to_openai() for call in self.tool_calls]
        if self.tool_call_id is not None:
            wire["tool_call_id"] = self.tool_call_id
        if self.name is not None:
            wire["name"] = self.name
        if self.reasoning is not None:
            wire["reasoning_content"] = self.reasoning
        return wire


class Tool(Frozen):
    """An OpenAI function schema: name, description, JSON schema of the parameters."""

    name: str
    description: str = ""
    parameters: dict[str, JsonValue] = Field(default_factory=dict)

    @classmethod
    def from_openai(cls, wire: Mapping[str, Any]) -> Tool:
        """Reads ``{"type": "function", "function": {...}}`` or the inner object alone."""
        function = wire.get("function", wire)
        if not isinstance(function, Mapping) or "name" not in function:
            raise SchemaError("a tool must be an OpenAI function schema with a name")
        return cls(
            name=str(function["name"]),
            description=str(function.get("description") or ""),
            parameters=dict(function.get("parameters") or {}),
        )

    def to_openai(self) -> dict[str, JsonValue]:
        """The OpenAI form."""
        return {
            "type": "function",
            "function": {
                "name": self.name,
                "description": self.description,
                "parameters": self.parameters,
            },
        }


class Step(Frozen):
    """One action and what came back.

    Attributes:
        index: position in the trajectory, from 0.
        attempt: 0, or higher where the same step was really taken again.
        action: the assistant message.
        observation: what came back; several messages for parallel tool calls, each paired by its
            ``tool_call_id`` and never by order. Empty while pending.
        kind: who answered; None while pending.
        status: ``pending`` until the observation is known.
        started_at: when the action was asked for (UTC).
        latency_s: seconds from the request to the action.
        model: the model that acted.
        token_ids: completion token ids as the engine returned them.
        logprobs: log-probabilities of those tokens, same length.
    """

    index: int = Field(ge=0)
    attempt: int = Field(default=0, ge=0)
    action: Message
    observation: tuple[Message, ...] = ()
    kind: Kind | None = None
    status: StepStatus = "pending"
    started_at: datetime | None = None
    latency_s: float | None = None
    model: str | None = None
    usage: Usage | None = None
    provenance: Provenance | None = None
    token_ids: tuple[int, ...] | None = None
    logprobs: tuple[float, ...] | None = None
    metadata: dict[str, JsonValue] = Field(default_factory=dict)

    @property
    def is_complete(self) -> bool:
        """Whether its next state is known, so that it makes a transition."""
        return (
            self.status in ("ok", "error")
            and bool(self.observation)
            and self.kind is not None
            and self.is_whole
        )

    @property
    def is_whole(self) -> bool:
        """Whether what is known of its next state is all recorded, and all real."""
        return NOT_RECORDED_KEY not in self.metadata and all(
            is_real(m.content) for m in self.observation
        )

    def ordered_observation(self) -> tuple[Message, ...]:
        """Observation with tool results in the order of the action's ``tool_calls``.

        Results that answer no call of the action (orphans) come last, in the order they came.
        """
        order = {call.id: place for place, call in enumerate(self.action.tool_calls)}
        last = len(order)
        return tuple(sorted(self.observation, key=lambda m: order.get(m.tool_call_id or "", last)))

    def orphans(self) -> int:
        """How many tool results answer no call of this step's action."""
        ids = {call.id for call in self.action.tool_calls}
        return sum(m.role == "tool" and m.tool_call_id not in ids for m in self.observation)


class Outcome(Frozen):
    """How a trajectory ended.

    Attributes:
        status: an ``infrastructure_error`` is never a failure of the agent.
        success: None when nobody judged it.
        reward: the benchmark's reward; None when there is none (never 0 for a missing one).
        breakdown: the evaluator's own detail.
    """

    status: OutcomeStatus = "unknown"
    success: bool | None = None
    reward: float | None = None
    breakdown: dict[str, JsonValue] = Field(default_factory=dict)


class Trajectory(Frozen):
    """A whole episode or conversation.

    Attributes:
        id: unique in the store; recording the same id again updates, never doubles.
        source: ``langgraph``, ``litellm``, ``tau2:retail``, ``alfworld``, ...
        task_id: the benchmark's task, or None for free traffic.
        split: the benchmark's split the task belongs to.
        initial: messages before the first action (system prompt, first observation).
        tools: tools the agent had.
        steps: in order of index.
    """

    id: str = Field(default_factory=lambda: uuid.uuid4().hex, min_length=1)
    source: str = Field(min_length=1)
    task_id: str | None = None
    split: str | None = None
    initial: tuple[Message, ...] = ()
    tools: tuple[Tool, ...] = ()
    steps: tuple[Step, ...] = ()
    outcome: Outcome = Outcome()
    fingerprint: Fingerprint = Fingerprint()
    started_at: datetime | None = None
    metadata: dict[str, JsonValue] = Field(default_factory=dict)

    def context(self, place: int, *, history: int | None = None) -> tuple[Message, ...]:
        """``s<=t`` of the step at `place`: the initial messages, then the turns before it.

        Args:
            place: in `steps`; their number for an action that is still to be taken.
            history: H, how many earlier turns (action and observation) it holds; None for all.
        """
        first = 0 if history is None else max(0, place - history)
        window = self.steps[first:place]
        turns = (message for past in window for message in (past.action, *past.observation))
        return (*self.initial, *turns)

    def transitions(self, *, history: int | None = None) -> Iterator[Transition]:
        """Yields the training view of every step whose next state is known (RWML sec. 2.1).

        What comes after a simulated answer is left out too: it happened in a world in which the
        answer is not true.

        Args:
            history: H, how many earlier turns the context holds besides the initial messages;
                None for all of them.

        Raises:
            SchemaError: `history` is negative.
        """
        if history is not None and history < 0:
            raise SchemaError(f"history must be 0 or more turns, not {history}")
        if any(is_simulated(message.content) for message in self.initial):
            return
        for place, step in enumerate(self.steps):
            if any(is_simulated(message.content) for message in step.observation):
                return
            if not step.is_complete or step.kind is None:
                continue
            yield Transition(
                id=f"{self.id}/{step.index}/{step.attempt}",
                trajectory_id=self.id,
                index=step.index,
                source=self.source,
                task_id=self.task_id,
                split=self.split,
                context=self.context(place, history=history),
                action=step.action,
                next_state=step.ordered_observation(),
                kind=step.kind,
                status=step.status,
                model=step.model,
                started_at=step.started_at,
                tools=self.tools,
                metadata=self.metadata,
                step_metadata=step.metadata,
            )


class Transition(Frozen):
    """The training view of a step: context, action, next state. Derived, never stored.

    Attributes:
        id: ``trajectory/step/attempt``.
        context: ``s<=t``: initial messages, then the last H turns.
        action: ``a_t``.
        next_state: ``s_t+1``; results of parallel calls in the order of ``tool_calls``.
        model: that chose the action, as whoever recorded it says.
        started_at: when it was asked, in UTC.
        metadata: of the trajectory.
        step_metadata: of the step.
    """

    id: str
    trajectory_id: str
    index: int
    source: str
    task_id: str | None
    split: str | None
    context: tuple[Message, ...]
    action: Message
    next_state: tuple[Message, ...]
    kind: Kind
    status: StepStatus
    model: str | None = None
    started_at: datetime | None = None
    tools: tuple[Tool, ...] = ()
    metadata: dict[str, JsonValue] = Field(default_factory=dict)
    step_metadata: dict[str, JsonValue] = Field(default_factory=dict)

    @property
    def group(self) -> str:
        """What is not independent of it: its task, else its thread, else its trajectory."""
        thread = self.metadata.get("thread_id")
        name = self.task_id or (str(thread) if thread else self.trajectory_id)
        return f"{self.source}/{name}"

    def is_by(self, model: str) -> bool:
        """Whether a model chose the action: of that name, or a version ``model@STEP`` of it."""
        return is_version_of(self.model or "", model)

    @property
    def tool(self) -> str | None:
        """Name of the called tool; None when none or several different ones were called."""
        names = {call.name for call in self.action.tool_calls}
        return names.pop() if len(names) == 1 else None


def is_version_of(version: str, model: str) -> bool:
    """Whether ``NAME@STEP`` is one of ``NAME``, or both are the same."""
    return model in (version, version.rpartition("@")[0])
