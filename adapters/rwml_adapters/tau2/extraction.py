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

from rwml.schema import Fingerprint, Outcome, Step, Tool, ToolCall, Trajectory
from rwml.schema import Message as RecordedMessage
from rwml.trajectory_recorder import complete_step
from rwml_adapters.tau2.messages import RECORD_KEY
from rwml_adapters.tau2.user import known_information

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
        metadata: more of it, beside what the user's simulator knows of the user.
    """
    seen = [message for message in messages if _seen_by_agent(message)]
    begin = _first_turn(seen, given=_given(task))
    initial = [RecordedMessage(role="system", content=system_prompt)]
    for message in seen[:begin]:
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
        steps=tuple(_steps(seen[begin:])),
        outcome=outcome,
        fingerprint=fingerprint,
        started_at=started_at,
        metadata={**({"user_information": known} if known else {}), **metadata},
    )


def _given(task: Task) -> int:
    """How many agent-visible messages there were before the agent's first turn."""
    history = task.initial_state.message_history if task.initial_state else None
    return sum(_seen_by_agent(message) for message in history) if history else 1


def _first_turn(seen: Sequence[Message], *, given: int) -> int:
    for place in range(min(given, len(seen)), len(seen)):
        if isinstance(seen[place], AssistantMessage):
            return place
    return len(seen)


def _steps(messages: Sequence[Message]) -> list[Step]:
    steps: list[Step] = []
    for message in messages:
        if isinstance(message, AssistantMessage):
            steps.append(_step(message, index=len(steps)))
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


def _step(message: AssistantMessage, *, index: int) -> Step:
    raw = (message.raw_data or {}).get(RECORD_KEY)
    if raw is not None:
        try:
            return Step.model_validate(raw).model_copy(update={"index": index})
        except ValidationError:
            pass  # another version's record: the message itself says the essential part
    return Step(index=index, action=_recorded(message)[0], started_at=_utc(message.timestamp))


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
