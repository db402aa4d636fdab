"""Recording as a middleware of `langchain.agents.create_agent`, for where callbacks are off.

It sees each model call and tool call of its agent from outside. Where a callback handler of the
same recorder sees them too, that one records and the middleware only passes them on, so nothing is
recorded twice. It never changes the request, but for the correlation header where that was asked
for, nor the response, nor what is raised. Source: LangChain's `AgentMiddleware`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID, uuid4

from langchain.agents.middleware import AgentMiddleware
from langchain.agents.middleware.types import ModelRequest
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.runnables import ensure_config
from langgraph.prebuilt.tool_node import ToolCallRequest

import rwml
from rwml.correlation import HEADER, correlation_headers
from rwml_adapters.langchain.calls import ModelCall, ToolRun, Where
from rwml_adapters.langchain.handler import RWMLCallbackHandler, instrumented
from rwml_adapters.langchain.intake import Intake
from rwml_adapters.langchain.messages import model_answers


class RWMLMiddleware(AgentMiddleware):
    """Records one agent: ``create_agent(..., middleware=[RWMLMiddleware(recorder)])``.

    Put it first, so that it is outermost: what inner middlewares do to a request (retries, other
    models) is part of one step then.

    Args:
        recorder: where the trajectories go.
        correlate: sends a header with each model call that lets a gateway which writes to the same
            store leave the call to this process. The chat model must take ``extra_headers``.
    """

    def __init__(self, recorder: rwml.Recorder, *, correlate: bool = False) -> None:
        super().__init__()
        self._recorder = recorder
        self._correlate = correlate
        self._intake = Intake(recorder)

    def wrap_model_call(self, request: ModelRequest, handler: Callable[[ModelRequest], Any]) -> Any:
        """Records a model call."""
        request = self._with_headers(request)
        with self._recording(request) as note:
            response = handler(request)
            note(response)
        return response

    async def awrap_model_call(
        self, request: ModelRequest, handler: Callable[[ModelRequest], Awaitable[Any]]
    ) -> Any:
        """Records a model call."""
        request = self._with_headers(request)
        with self._recording(request) as note:
            response = await handler(request)
            note(response)
        return response

    def wrap_tool_call(
        self, request: ToolCallRequest, handler: Callable[[ToolCallRequest], Any]
    ) -> Any:
        """Records what a tool answers."""
        with self._using(request) as note:
            output = handler(request)
            note(output)
        return output

    async def awrap_tool_call(
        self, request: ToolCallRequest, handler: Callable[[ToolCallRequest], Awaitable[Any]]
    ) -> Any:
        """Records what a tool answers."""
        with self._using(request) as note:
            output = await handler(request)
            note(output)
        return output

    @contextmanager
    def _recording(self, request: ModelRequest) -> Iterator[Callable[[Any], None]]:
        call: ModelCall | None = None
        with self._recorder.guard():
            if self._intake.is_open and not self._is_seen():
                call = self._begin(request)
        if call is None:
            yield _nothing
            return
        answers: list[AIMessage] = []
        try:
            yield lambda response: answers.extend(model_answers(response))
        finally:
            with self._recorder.guard():
                self._intake.finish(call, answers[0] if answers else None)
                if answers and not answers[0].tool_calls and Where(call.metadata).thread_id is None:
                    self._intake.end(call.runs[0])  # the agent answered: its run is over

    @contextmanager
    def _using(self, request: ToolCallRequest) -> Iterator[Callable[[Any], None]]:
        tool: ToolRun | None = None
        with self._recorder.guard():
            if self._intake.is_open and not self._is_seen():
                config = ensure_config()
                runs = (_parent(config), uuid4().int)
                tool = ToolRun(request.tool_call["id"], runs, dict(config.get("metadata") or {}))
        if tool is None:
            yield _nothing
            return
        outputs: list[Any] = []
        try:
            yield outputs.append
        except BaseException as error:
            with self._recorder.guard():
                self._intake.fail(tool, error)
            raise
        with self._recorder.guard():
            self._intake.answer(tool, outputs)

    def _begin(self, request: ModelRequest) -> ModelCall:
        config = ensure_config()
        metadata = dict(config.get("metadata") or {})
        system = [] if request.system_message is None else [request.system_message]
        model = request.model
        return self._intake.begin(
            [*system, *request.messages],
            (_parent(config), uuid4().int),
            metadata,
            request.tools,
            {"model": getattr(model, "model_name", None) or getattr(model, "model", None)},
            _said(request, Where(metadata)),
        )

    def _with_headers(self, request: ModelRequest) -> ModelRequest:
        if not self._correlate:
            return request
        changed = request
        with self._recorder.guard():
            given = request.model_settings.get("extra_headers") or {}
            if not any(str(name).lower() == HEADER for name in given):
                headers = {**correlation_headers(self._recorder), **given}
                settings = {**request.model_settings, "extra_headers": headers}
                changed = request.override(model_settings=settings) if headers else request
        return changed

    def _is_seen(self) -> bool:
        """Whether a callback handler of the same recorder is told of this call."""
        callbacks: Any = ensure_config().get("callbacks")
        given = getattr(callbacks, "handlers", callbacks) or ()
        return any(
            isinstance(handler, RWMLCallbackHandler)
            and handler.recorder is self._recorder
            and handler.is_recording
            for handler in (*given, *instrumented())
        )


def _nothing(response: Any) -> None:
    """Stands for the note of a call that another one records."""


def _parent(config: Any) -> int:
    """The run of the node that calls; one of its own where there is none."""
    parent: UUID | None = getattr(config.get("callbacks"), "parent_run_id", None)
    return (parent or uuid4()).int


def _said(request: ModelRequest, where: Where) -> str | None:
    """What the user said to start the run; only in an agent that no other one runs."""
    messages: Any = request.state.get("messages") or [None]
    last = messages[-1]
    if not isinstance(last, HumanMessage) or "|" in (where.checkpoint_ns or ""):
        return None
    return last.content if isinstance(last.content, str) else None
