"""`SimulatedEnv` as a middleware of `langchain.agents.create_agent`. Source: its `AgentMiddleware`.

An error of the world model ends the run: a dry run that cannot be simulated must not go on with the
real tool, and the agent cannot do anything about it. It passes through whatever makes tool results
of errors (``ToolNode(handle_tool_errors=True)``, ``ToolRetryMiddleware``), since the result would
look as if the tool had said it: as LangGraph's control flow does, by its `GraphBubbleUp`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from langchain.agents.middleware import AgentMiddleware
from langchain.agents.middleware.types import ModelRequest
from langchain_core.messages import ToolMessage
from langgraph.errors import GraphBubbleUp
from langgraph.prebuilt.tool_node import ToolCallRequest

from rwml.errors import RwmlError, WorldModelError, WorldModelUnavailableError
from rwml.schema import Message
from rwml_adapters.langchain.situations import Situations

if TYPE_CHECKING:
    from rwml_adapters.simulated.environment import SimulatedEnv


class SimulationError(WorldModelError, GraphBubbleUp):
    """A tool call could not be simulated; its cause is the error of the world model."""


class SimulationUnavailableError(SimulationError, WorldModelUnavailableError):
    """The same, since the world model's endpoint is busy or out of reach."""


class SimulatedTools(AgentMiddleware):
    """Answers tool calls; made by `SimulatedEnv.middleware`.

    Put it last, so that it is innermost: what other middlewares do with a tool, they do with its
    simulation.
    """

    def __init__(self, env: SimulatedEnv) -> None:
        super().__init__()
        self._env = env
        self._situations = Situations()

    def wrap_model_call(self, request: ModelRequest, handler: Callable[[ModelRequest], Any]) -> Any:
        """Notes the system prompt and the tools, which a tool call does not know."""
        response = handler(request)
        self._situations.note(request, response)
        return response

    async def awrap_model_call(
        self, request: ModelRequest, handler: Callable[[ModelRequest], Awaitable[Any]]
    ) -> Any:
        """As `wrap_model_call`."""
        response = await handler(request)
        self._situations.note(request, response)
        return response

    def wrap_tool_call(
        self, request: ToolCallRequest, handler: Callable[[ToolCallRequest], Any]
    ) -> Any:
        """Answers in place of a simulated tool.

        Raises:
            SimulationError: that cannot be done.
        """
        if not self._env.simulates(request.tool_call["name"]):
            return handler(request)
        with _ending_the_run():
            situation = self._situations.of(request)
            (answer,) = self._env.answer(situation.trajectory, situation.action)
        return _tool_message(answer)

    async def awrap_tool_call(
        self, request: ToolCallRequest, handler: Callable[[ToolCallRequest], Awaitable[Any]]
    ) -> Any:
        """As `wrap_tool_call`."""
        if not self._env.simulates(request.tool_call["name"]):
            return await handler(request)
        with _ending_the_run():
            situation = self._situations.of(request)
            (answer,) = await self._env.aanswer(situation.trajectory, situation.action)
        return _tool_message(answer)


@contextmanager
def _ending_the_run() -> Iterator[None]:
    try:
        yield
    except WorldModelUnavailableError as error:
        raise SimulationUnavailableError(str(error)) from error
    except Exception as error:
        said = str(error) if isinstance(error, RwmlError) else f"{type(error).__name__}: {error}"
        raise SimulationError(f"a tool call cannot be simulated: {said}") from error


def _tool_message(answer: Message) -> ToolMessage:
    return ToolMessage(answer.content or "", tool_call_id=answer.tool_call_id, name=answer.name)
