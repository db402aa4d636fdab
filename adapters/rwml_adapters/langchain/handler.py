"""LangChain's callbacks: what they say is noted in the agent's thread and told in the writer's.

A callback takes snapshots, a few microseconds of work, and queues the rest; it never waits, raises
or changes what the agent gets. Context variables are used only to hand LangChain the handler;
everything else follows run id and parent run id, so threads, tasks and several graphs at once do
not mix. Source: langchain-core's callback contract.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any
from uuid import UUID

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import BaseMessage
from langchain_core.outputs import LLMResult
from langchain_core.tracers import context as tracing

import rwml
from rwml_adapters.langchain.calls import ModelCall, Runs, ToolRun
from rwml_adapters.langchain.intake import Intake
from rwml_adapters.langchain.messages import answer_of

KEPT_RUNS = 100_000
"""Runs in flight that are remembered; those that never ended go first (ours)."""


def instrument(recorder: rwml.Recorder) -> Callable[[], None]:
    """Records every LangChain and LangGraph run of this process, in all threads and tasks.

    Args:
        recorder: where the trajectories go.

    Returns:
        A function that undoes it: no later run is recorded, and no more of those in flight.
    """
    handler = RWMLCallbackHandler(recorder)
    # The handler is the variable's default, so that every thread and task sees it.
    variable: ContextVar[Any] = ContextVar("rwml_handler", default=handler)
    tracing.register_configure_hook(variable, inheritable=True)

    def undo() -> None:
        handler.stop()
        hooks = tracing._configure_hooks
        hooks[:] = [hook for hook in hooks if hook[0] is not variable]

    return undo


def instrumented() -> Iterator[RWMLCallbackHandler]:
    """The handlers that see every run of this process."""
    for variable, *_ in tracing._configure_hooks:
        handler = variable.get()
        if isinstance(handler, RWMLCallbackHandler):
            yield handler


class RWMLCallbackHandler(BaseCallbackHandler):
    """Records the runs it is given to: ``config={"callbacks": [RWMLCallbackHandler(recorder)]}``.

    Never raises into the agent (except under pytest) and never changes what it gets.

    Args:
        recorder: where the trajectories go.
    """

    run_inline = True  # in order and in the caller's thread: each call is short and never blocks
    ignore_retriever = True  # type: ignore[assignment]  # properties in the base class
    ignore_retry = True  # type: ignore[assignment]
    ignore_custom_event = True  # type: ignore[assignment]
    ignore_agent = False  # type: ignore[assignment]  # tools are among these
    ignore_chain = False  # type: ignore[assignment]
    ignore_chat_model = False  # type: ignore[assignment]
    ignore_llm = False  # type: ignore[assignment]

    def __init__(self, recorder: rwml.Recorder) -> None:
        self.raise_error = "PYTEST_CURRENT_TEST" in os.environ  # as Recorder.guard has it
        self._intake = Intake(recorder)
        self._recorder = recorder
        # Each by run id as a number, which is hashed faster. Operations on one dict are atomic.
        self._paths: dict[int, Runs] = {}
        self._says: dict[int, str] = {}
        self._calls: dict[int, ModelCall] = {}
        self._tools: dict[int, ToolRun] = {}

    def __deepcopy__(self, memo: dict[int, Any]) -> RWMLCallbackHandler:
        return self

    def __copy__(self) -> RWMLCallbackHandler:
        return self

    @property
    def recorder(self) -> rwml.Recorder:
        """Where the trajectories go."""
        return self._recorder

    @property
    def is_recording(self) -> bool:
        """Whether it takes what it is told."""
        return self._intake.is_open

    def stop(self) -> None:
        """Records nothing from now on, in runs that are in flight neither."""
        self._intake.stop()

    def on_chain_start(
        self,
        serialized: dict[str, Any],
        inputs: Any,
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        **kwargs: Any,
    ) -> None:
        """A graph, node or chain started: remembers where it hangs in the tree of runs."""
        run = run_id.int
        if parent_run_id is not None:
            above = parent_run_id.int
            self._paths[run] = (*self._paths.get(above, (above,)), run)
            return
        try:
            self._paths[run] = (run,)
            said = _last_text(inputs)
            if said is not None:
                self._says[run] = said
            self._bound()
        except Exception as error:  # noqa: BLE001 - never into the agent
            self._swallow(error)

    def on_chain_end(
        self,
        outputs: Any,
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        **kwargs: Any,
    ) -> None:
        """A graph, node or chain ended."""
        self._paths.pop(run_id.int, None)
        if parent_run_id is None:
            self._end(run_id.int)

    def on_chain_error(
        self,
        error: BaseException,
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        **kwargs: Any,
    ) -> None:
        """A graph, node or chain failed, was interrupted, or was cancelled."""
        try:
            if not isinstance(error, Exception):
                self._cut_off(run_id.int)
        except Exception as failure:  # noqa: BLE001 - never into the agent
            self._swallow(failure)
        self._paths.pop(run_id.int, None)
        if parent_run_id is None:
            self._end(run_id.int, completed=False)

    def on_chat_model_start(
        self,
        serialized: dict[str, Any],
        messages: list[list[BaseMessage]],
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        tags: list[str] | None = None,
        metadata: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """A chat model was called: its messages are the context of a step."""
        if not messages or not self._intake.is_open:
            return
        try:
            runs = self._runs(run_id.int, parent_run_id)
            asked = kwargs.get("invocation_params") or {}
            self._calls[run_id.int] = self._intake.begin(
                messages[0], runs, metadata, asked.get("tools"), asked, self._says.get(runs[0])
            )
        except Exception as error:  # noqa: BLE001 - never into the agent
            self._swallow(error)

    def on_llm_end(
        self,
        response: LLMResult,
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        **kwargs: Any,
    ) -> None:
        """A model answered: the message is the action of a step."""
        call = self._calls.pop(run_id.int, None)
        if call is None:
            return
        try:
            message = answer_of(response)
            if message is not None:
                self._intake.finish(call, message, response.llm_output)
            if parent_run_id is None:
                self._end(run_id.int)
        except Exception as error:  # noqa: BLE001 - never into the agent
            self._swallow(error)

    def on_llm_error(
        self,
        error: BaseException,
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        **kwargs: Any,
    ) -> None:
        """A model failed: there is no action, but the request says what came before."""
        call = self._calls.pop(run_id.int, None)
        if call is None:
            return
        try:
            self._intake.finish(call, None)
            if parent_run_id is None:
                self._end(run_id.int, completed=False)
        except Exception as failure:  # noqa: BLE001 - never into the agent
            self._swallow(failure)

    def on_tool_start(
        self,
        serialized: dict[str, Any],
        input_str: str,
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        tags: list[str] | None = None,
        metadata: dict[str, Any] | None = None,
        inputs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """A tool was called."""
        if self._intake.is_stopped:
            return
        try:
            runs = self._runs(run_id.int, parent_run_id)
            self._paths[run_id.int] = runs
            self._tools[run_id.int] = ToolRun(kwargs.get("tool_call_id"), runs, metadata)
        except Exception as error:  # noqa: BLE001 - never into the agent
            self._swallow(error)

    def on_tool_end(
        self,
        output: Any,
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        **kwargs: Any,
    ) -> None:
        """A tool answered: an observation of the step that called it."""
        tool = self._tools.pop(run_id.int, None)
        self._paths.pop(run_id.int, None)
        if tool is None:
            return
        try:
            self._intake.answer(tool, output)
        except Exception as error:  # noqa: BLE001 - never into the agent
            self._swallow(error)

    def on_tool_error(
        self,
        error: BaseException,
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        **kwargs: Any,
    ) -> None:
        """A tool failed; an interrupt of the graph is no failure, the step waits for the resume."""
        tool = self._tools.pop(run_id.int, None)
        self._paths.pop(run_id.int, None)
        if tool is None:
            return
        try:
            self._intake.fail(tool, error)
        except Exception as failure:  # noqa: BLE001 - never into the agent
            self._swallow(failure)

    def _end(self, run: int, *, completed: bool = True) -> None:
        self._says.pop(run, None)
        self._intake.end(run, completed=completed)

    def _runs(self, run: int, parent_run_id: UUID | None) -> Runs:
        if parent_run_id is None:
            return (run,)
        above = parent_run_id.int
        return (*self._paths.get(above, (above,)), run)

    def _cut_off(self, run: int) -> None:
        """A run was cancelled: so was what is in flight below it, which nobody tells."""
        for below, tool in list(self._tools.items()):
            if run in tool.runs and self._tools.pop(below, None) is not None:
                self._paths.pop(below, None)
                self._intake.interrupt(tool)
        for below, call in list(self._calls.items()):
            if run in call.runs and self._calls.pop(below, None) is not None:
                self._intake.finish(call, None)

    def _bound(self) -> None:
        for kept in (self._paths, self._says, self._calls, self._tools):
            while len(kept) > KEPT_RUNS:
                kept.pop(next(iter(kept)), None)
        self._intake.bound()

    def _swallow(self, error: Exception) -> None:
        with self._recorder.guard():
            raise error


def _last_text(inputs: Any) -> str | None:
    """The text of the message that starts a run, in the forms that graphs are given it."""
    said: Any = inputs.get("messages") if isinstance(inputs, dict) else inputs
    if isinstance(said, list) and said:
        said = said[-1]
    if isinstance(said, BaseMessage):
        said = said.content
    elif isinstance(said, dict):
        said = said.get("content")
    elif isinstance(said, tuple) and len(said) == 2:
        said = said[1]
    return said if type(said) is str else None
