"""Trajectories for tests: a ready-made one, and a builder for any other.

What is built is what a recorder would store: results are paired by ``tool_call_id``, the last step
is pending until something comes back. Ids depend on the place alone, so that a test can name them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pydantic import JsonValue

from rwml.errors import UsageError
from rwml.schema import Kind, Message, Outcome, Step, StepStatus, Tool, ToolCall, Trajectory
from rwml.trajectory_recorder import complete_step

Call = tuple[str, Mapping[str, JsonValue]]
"""Name and arguments of a tool call."""


class TrajectoryBuilder:
    """Builds a trajectory message by message; every method but `build` returns the builder.

    >>> builder = TrajectoryBuilder("t").user("Is it open?").calls(("look", {"at": "door"}))
    >>> trajectory = builder.returns("open").says("It is.").build()
    >>> [(step.status, step.kind) for step in trajectory.steps]
    [('ok', 'tool'), ('pending', None)]

    Args:
        id: of the trajectory.
        source: of the trajectory.
        **fields: further fields of `Trajectory`, such as ``task_id`` or ``metadata``.
    """

    def __init__(self, id: str = "test", *, source: str = "test", **fields: Any) -> None:
        self._fields: dict[str, Any] = {"id": id, "source": source, **fields}
        self._initial: list[Message] = []
        self._steps: list[Step] = []

    def system(self, text: str) -> TrajectoryBuilder:
        """The system prompt; before the first action."""
        if self._steps:
            raise UsageError("a system prompt comes before the first action")
        self._initial.append(Message(role="system", content=text))
        return self

    def user(self, text: str) -> TrajectoryBuilder:
        """A user's message: what the agent sees first, or the answer to its last action."""
        message = Message(role="user", content=text)
        if self._steps:
            return self._observe(message, kind="user")
        self._initial.append(message)
        return self

    def environment(self, text: str) -> TrajectoryBuilder:
        """What a text environment shows: at first, or after the last action."""
        message = Message(role="user", content=text)
        if self._steps:
            return self._observe(message, kind="environment")
        self._initial.append(message)
        return self

    def says(self, text: str, **fields: Any) -> TrajectoryBuilder:
        """The agent says something.

        Args:
            text: of the action.
            **fields: further fields of `Step`, such as ``model`` or ``provenance``.
        """
        return self._act(Message(role="assistant", content=text), fields)

    def calls(self, *calls: Call, **fields: Any) -> TrajectoryBuilder:
        """The agent calls tools, several at once where several are given.

        Args:
            *calls: name and arguments of each; the ids are ``call_STEP_PLACE``, both from 0.
            **fields: further fields of `Step`.
        """
        made = tuple(
            ToolCall(id=f"call_{len(self._steps)}_{place}", name=name, arguments=dict(arguments))
            for place, (name, arguments) in enumerate(calls)
        )
        return self._act(Message(role="assistant", tool_calls=made), fields)

    def returns(self, *results: str, by_id: Mapping[str, str] | None = None) -> TrajectoryBuilder:
        """Tool results come back; a call without one stays unanswered.

        Args:
            *results: of the last action's calls, in their order.
            by_id: further results by ``tool_call_id``, in the order they come; an id of no call
                makes an orphan.
        """
        return self._results(results, by_id or {}, "ok")

    def fails(self, *errors: str) -> TrajectoryBuilder:
        """As `returns`, but the results are errors."""
        return self._results(errors, {}, "error")

    def interrupted(self) -> TrajectoryBuilder:
        """The last action was cut off before anything came back."""
        self._steps[-1] = self._last().model_copy(update={"status": "interrupted"})
        return self

    def build(self, *, outcome: Outcome | None = None) -> Trajectory:
        """The trajectory as it is now; the builder can go on.

        Args:
            outcome: how it ended; by default nobody judged it.
        """
        names = [call.name for step in self._steps for call in step.action.tool_calls]
        tools = tuple(Tool(name=name) for name in dict.fromkeys(names))
        return Trajectory(
            **{"tools": tools, **self._fields},
            initial=tuple(self._initial),
            steps=tuple(self._steps),
            outcome=outcome or Outcome(),
        )

    def _act(self, action: Message, fields: dict[str, Any]) -> TrajectoryBuilder:
        self._steps.append(Step(index=len(self._steps), action=action, **fields))
        return self

    def _results(
        self, texts: tuple[str, ...], by_id: Mapping[str, str], status: StepStatus
    ) -> TrajectoryBuilder:
        calls = self._last().action.tool_calls
        if len(texts) > len(calls):
            raise UsageError(f"{len(texts)} results for {len(calls)} calls: give others by_id")
        given = [(call.id, text) for call, text in zip(calls, texts, strict=False)]
        messages = [
            Message(role="tool", content=text, tool_call_id=id)
            for id, text in [*given, *by_id.items()]  # noqa: A001
        ]
        return self._observe(*messages, kind="tool", status=status)

    def _observe(
        self, *messages: Message, kind: Kind, status: StepStatus = "ok"
    ) -> TrajectoryBuilder:
        self._steps[-1] = complete_step(self._last(), messages, status=status, kind=kind)
        return self

    def _last(self) -> Step:
        if not self._steps:
            raise UsageError("nothing comes back before the first action")
        return self._steps[-1]


def make_trajectory(task: int, *, source: str = "shop", length: int = 3) -> Trajectory:
    """A conversation with a shop: tool calls, one of which fails, then a question to the user.

    Args:
        task: number of the task; every text depends on it.
        source: of the trajectory.
        length: how many tool calls come before the question.
    """
    steps = [_tool_step(task, index) for index in range(length)]
    steps.append(
        Step(
            index=length,
            action=Message(role="assistant", content=f"Shall I cancel order {task}?"),
            observation=(Message(role="user", content=f"Yes, cancel order {task}, please."),),
            kind="user",
            status="ok",
        )
    )
    return Trajectory(
        id=f"{source}-{task}",
        source=source,
        task_id=str(task),
        initial=(
            Message(role="system", content="You help the customers of a shop."),
            Message(role="user", content=f"Please look at order {task}."),
        ),
        tools=(
            Tool(
                name="get_order",
                description="Look an order up.",
                parameters={
                    "type": "object",
                    "properties": {"order_id": {"type": "string"}},
                    "required": ["order_id"],
                },
            ),
        ),
        steps=tuple(steps),
        outcome=Outcome(status="completed", success=True, reward=1.0),
    )


def _tool_step(task: int, index: int) -> Step:
    call = ToolCall(id=f"call_{index}", name="get_order", arguments={"order_id": f"{task}-{index}"})
    failed = index == 1
    found = {"order_id": f"{task}-{index}", "total": 10.5 * task, "items": [{"name": "lamp"}]}
    result = f"Error: order {task}-{index} not found" if failed else json.dumps(found)
    return Step(
        index=index,
        action=Message(role="assistant", tool_calls=(call,)),
        observation=(Message(role="tool", content=result, tool_call_id=call.id),),
        kind="tool",
        status="error" if failed else "ok",
    )
