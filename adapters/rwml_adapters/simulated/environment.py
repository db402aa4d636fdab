"""Answers an agent's tool calls from a world model instead of the tools.

Each answer begins with `rwml.content.SIMULATED_MARK`, which every recorder keeps: neither it, nor
what comes after it in the conversation, is ever a transition. A tool that is simulated never runs,
whatever goes wrong.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from rwml.content import SIMULATED_MARK
from rwml.errors import UsageError
from rwml.extras import require
from rwml.schema import Message, ToolCall, Trajectory
from rwml.trajectory_recorder import MessageLike, read_message
from rwml.world_model import Prediction, WorldModel

if TYPE_CHECKING:
    from rwml_adapters.simulated.middleware import SimulatedTools


class SimulatedEnv:
    """An environment that a world model imagines.

    Calls at once are asked about one by one. A model that was trained on masked results answers
    with the schema of a result in place of its values.

    Args:
        world: that is asked.
        tools: names of those that are simulated, the others run; None for all.

    Raises:
        UsageError: `tools` is a single text.
    """

    def __init__(self, world: WorldModel, *, tools: Collection[str] | None = None) -> None:
        if isinstance(tools, str):
            raise UsageError(f"tools are several names: tools=[{tools!r}]")
        self._world = world
        self._tools = None if tools is None else frozenset(tools)

    def simulates(self, tool: str) -> bool:
        """Whether calls of this tool are answered here."""
        return self._tools is None or tool in self._tools

    def answer(self, trajectory: Trajectory, action: MessageLike) -> tuple[Message, ...]:
        """What the action's calls of simulated tools would give, in their order.

        Args:
            trajectory: what was so far.
            action: assistant message, as an OpenAI-style dict or a `Message`.

        Returns:
            Tool messages, each marked as simulated.

        Raises:
            SchemaError: the action is no message.
            WorldModelError: the world model cannot be asked.
        """
        calls, asked = self._ask(trajectory, action)
        return _messages(calls, self._world.predict_many(asked))

    async def aanswer(self, trajectory: Trajectory, action: MessageLike) -> tuple[Message, ...]:
        """As `answer`."""
        calls, asked = self._ask(trajectory, action)
        return _messages(calls, await self._world.apredict_many(asked))

    def middleware(self) -> SimulatedTools:
        """For LangChain: ``create_agent(..., middleware=[env.middleware()])``.

        Its ``wrap_tool_call`` and ``awrap_tool_call`` fit a LangGraph ``ToolNode`` as well.

        Raises:
            MissingExtraError: langchain is not installed.
        """
        require("langgraph", "langgraph", "langchain")
        from rwml_adapters.simulated.middleware import SimulatedTools

        return SimulatedTools(self)

    def _ask(
        self, trajectory: Trajectory, action: MessageLike
    ) -> tuple[list[ToolCall], list[tuple[Trajectory, MessageLike]]]:
        message = read_message(action)
        calls = [call for call in message.tool_calls if self.simulates(call.name)]
        single = [message.model_copy(update={"tool_calls": (call,)}) for call in calls]
        return calls, [(trajectory, each) for each in single]


def _messages(calls: list[ToolCall], predictions: list[Prediction]) -> tuple[Message, ...]:
    return tuple(
        Message(
            role="tool",
            content=SIMULATED_MARK + _text(prediction),
            tool_call_id=call.id,
            name=call.name,
        )
        for call, prediction in zip(calls, predictions, strict=True)
    )


def _text(prediction: Prediction) -> str:
    if prediction.text is not None:
        return prediction.text
    return f"no prediction ({prediction.problem})"
