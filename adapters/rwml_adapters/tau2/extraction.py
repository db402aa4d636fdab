"""Turns the messages of a tau2 simulation into a trajectory, after the fact.

Only what the agent saw is in it: a telecom user's own tool calls are left out, and results are
paired with their call by id. It also reads simulations of agents that are not ours, which carry no
recorded step in ``raw_data``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from types import MappingProxyType

from pydantic import JsonValue, ValidationError
from tau2.data_model.message import (
    AssistantMessage,
    Message,
    MultiToolMessage,
    ToolMessage,
    UserMessage,
)
from tau2.data_model.tasks import Task

from rwml.schema import Fingerprint, Outcome, Step, Tool, ToolCall, Trajectory, Usage
from rwml.schema import Message as RecordedMessage
from rwml.trajectory_recorder import complete_step
from rwml_adapters.tau2.messages import RECORD_KEY
from rwml_adapters.tau2.user import known_information

USER_CALLS_KEY = "user_tool_calls"
"""Metadata of a step: calls that the user made of its own tools before it answered."""
_STOP_TOKENS = re.compile(r"###(?:STOP|TRANSFER|OUT-OF-SCOPE)###")


def trajectory_from_simulation(
    messages: Sequence[Message],
    *,
    id: str,
    task: Task,
    domain: str,
    split: str | None,
    system_prompt: str,
    tools: Sequence[Tool],
    outcome: Outcome,
    fingerprint: Fingerprint,
    started_at: datetime | None = None,
    recorded: Sequence[Step] = (),
    metadata: Mapping[str, JsonValue] = MappingProxyType({}),
) -> Trajectory:
    """Rebuilds what one agent saw, did and got back.

    Args:
        messages: of the simulation, in order (`SimulationRun.messages`).
        id: of the trajectory; recording it again updates.
        task: the simulated task; its message history belongs to the initial messages.
        domain: names the source, ``tau2:DOMAIN``.
        split: the split the task was taken from.
        system_prompt: the agent's, with the policy.
        tools: of the agent.
        outcome: how it ended.
        fingerprint: what produced it.
        started_at: when the episode began (UTC).
        recorded: of the agent's replies, in order, where they are known beside the messages.
        metadata: more of it, beside what the user's simulator knows of the user.
    """
    begin = _first_turn(messages, given=_given(task))
    initial = [RecordedMessage(role="system", content=system_prompt)]
    for message in messages[:begin]:
        if _seen_by_agent(message):
            initial += _recorded(message)
    instructions = task.user_scenario.instructions
    known = known_information(instructions)
    return Trajectory(
        id=id,
        source=f"tau2:{domain}",
        task_id=task.id,
        split=split,
        initial=tuple(initial),
        tools=tuple(tools),
        steps=tuple(_steps(messages[begin:], recorded)),
        outcome=outcome,
        fingerprint=fingerprint,
        started_at=started_at,
        metadata={**({"user_information": known} if known else {}), **metadata},
    )


def _given(task: Task) -> int:
    """How many messages there were before the agent's first turn; one is tau2's greeting."""
    history = task.initial_state.message_history if task.initial_state else None
    return len(history) if history else 1


def _first_turn(messages: Sequence[Message], *, given: int) -> int:
    for place in range(min(given, len(messages)), len(messages)):
        if isinstance(messages[place], AssistantMessage):
            return place
    return len(messages)


def _steps(messages: Sequence[Message], recorded: Sequence[Step]) -> list[Step]:
    steps: list[Step] = []
    for message in messages:
        if not _seen_by_agent(message):
            if isinstance(message, UserMessage) and steps:
                steps[-1] = _with_user_calls(steps[-1], message)
            continue
        if isinstance(message, AssistantMessage):
            place = len(steps)
            known = recorded[place] if place < len(recorded) else _recorded_in(message)
            step = known or _made_of(message)
            steps.append(step.model_copy(update={"index": place}) if place else step)
            continue
        place = _answered(steps, message)
        error = isinstance(message, ToolMessage) and message.error
        steps[place] = complete_step(
            steps[place],
            tuple(_recorded(message)),
            status="error" if error else "ok",
            kind="user" if isinstance(message, UserMessage) else "tool",
        )
    return [_with_missing_results(step) for step in steps]


def _with_user_calls(step: Step, message: UserMessage) -> Step:
    """Marks what the user did with tools of its own before it answered; the agent saw none of it.

    Only what was asked for is kept: results belong to the user, who tells what it wants of them.
    """
    before = step.metadata.get(USER_CALLS_KEY)
    made: list[JsonValue] = [
        {"name": call.name, "arguments": dict(call.arguments)} for call in message.tool_calls or ()
    ]
    calls = [*(before if isinstance(before, list) else ()), *made]
    return step.model_copy(update={"metadata": {**step.metadata, USER_CALLS_KEY: calls}})


def _answered(steps: Sequence[Step], message: Message) -> int:
    """The step a message answers: the newest with that call id, else the last one."""
    if isinstance(message, ToolMessage):
        for place in reversed(range(len(steps))):
            if message.id in {call.id for call in steps[place].action.tool_calls}:
                return place
    return len(steps) - 1


def _with_missing_results(step: Step) -> Step:
    """A step of parallel calls of which some were never answered was cut off."""
    answered = {message.tool_call_id for message in step.observation}
    if step.observation and any(call.id not in answered for call in step.action.tool_calls):
        return step.model_copy(update={"status": "interrupted"})
    return step


def _recorded_in(message: AssistantMessage) -> Step | None:
    raw = (message.raw_data or {}).get(RECORD_KEY)
    if raw is None:
        return None
    try:
        return Step.model_validate(raw)
    except ValidationError:  # another version's record: the message says the essential part
        return None


def _made_of(message: AssistantMessage) -> Step:
    return Step(
        index=0,
        action=_recorded(message)[0],
        started_at=_utc(message.timestamp),
        usage=_usage(message.usage),
    )


def _usage(counts: Mapping[str, object] | None) -> Usage | None:
    found = {
        name: count
        for name in ("prompt_tokens", "completion_tokens")
        if isinstance(count := (counts or {}).get(name), int)
    }
    return Usage(**found) if found else None


def _recorded(message: Message) -> list[RecordedMessage]:
    if isinstance(message, ToolMessage):
        return [RecordedMessage(role="tool", content=message.content, tool_call_id=message.id)]
    if isinstance(message, UserMessage):
        return [RecordedMessage(role="user", content=without_stop_token(message.content or ""))]
    if isinstance(message, AssistantMessage):
        calls = tuple(
            ToolCall(id=call.id, name=call.name, arguments=call.arguments)
            for call in message.tool_calls or ()
        )
        return [RecordedMessage(role="assistant", content=message.content, tool_calls=calls)]
    if isinstance(message, MultiToolMessage):
        return [part for result in message.tool_messages for part in _recorded(result)]
    return [RecordedMessage(role="system", content=message.content)]


def without_stop_token(text: str) -> str:
    """The user's text without tau2's stop token; the token alone stays as it is."""
    return _STOP_TOKENS.sub("", text).strip() or text


def _seen_by_agent(message: Message) -> bool:
    if isinstance(message, UserMessage):
        return not message.is_tool_call()
    if isinstance(message, ToolMessage):
        return message.requestor == "assistant"
    return isinstance(message, AssistantMessage)


def _utc(timestamp: str | None) -> datetime | None:
    try:
        return datetime.fromisoformat(timestamp).astimezone(UTC) if timestamp else None
    except ValueError:  # tau2 has a compact form of its own too
        return None
