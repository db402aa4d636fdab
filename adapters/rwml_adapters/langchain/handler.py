"""LangChain's callbacks, turned into model calls and tool results linked by run ids.

Context variables are used only to hand LangChain the handler; everything else follows run id and
parent run id, so threads, tasks and several graphs at once do not mix.
"""

from __future__ import annotations

import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any
from uuid import UUID

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import BaseMessage
from langchain_core.outputs import LLMResult
from langchain_core.tracers import context as tracing

import rwml
from rwml.schema import Fingerprint, Message, Provenance
from rwml_adapters.langchain.conversations import Ancestors, Conversations, ModelCall, prefixes
from rwml_adapters.langchain.messages import (
    error_ids,
    to_action,
    to_message,
    to_tools,
    tool_results,
)

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


class RWMLCallbackHandler(BaseCallbackHandler):
    """Records the runs it is given to: ``config={"callbacks": [RWMLCallbackHandler(recorder)]}``.

    Never raises into the agent (except under pytest) and never changes what it gets.

    Args:
        recorder: where the trajectories go.
    """

    run_inline = True  # in order and in the caller's thread: each call is short and never blocks

    def __init__(self, recorder: rwml.Recorder) -> None:
        self.raise_error = "PYTEST_CURRENT_TEST" in os.environ  # as Recorder.guard has it
        self._recorder = recorder
        self._conversations = Conversations(recorder=recorder, fingerprint=_fingerprint())
        self._lock = threading.Lock()
        self._runs: OrderedDict[UUID, Ancestors] = OrderedDict()
        self._calls: dict[UUID, ModelCall] = {}
        self._tools: dict[UUID, tuple[str, Ancestors, str | None]] = {}
        self._stopped = False

    def __deepcopy__(self, memo: dict[int, Any]) -> RWMLCallbackHandler:
        return self

    def __copy__(self) -> RWMLCallbackHandler:
        return self

    def stop(self) -> None:
        """Records nothing from now on, in runs that are in flight neither."""
        self._stopped = True

    def on_chain_start(
        self,
        serialized: dict[str, Any],
        inputs: dict[str, Any],
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        **kwargs: Any,
    ) -> None:
        """A graph, node or chain started: remembers where it hangs in the tree of runs."""
        with self._recorder.guard():
            self._enter(run_id, parent_run_id)

    def on_chain_end(
        self,
        outputs: dict[str, Any],
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        **kwargs: Any,
    ) -> None:
        """A graph, node or chain ended."""
        with self._recorder.guard():
            self._leave(run_id, parent_run_id, completed=True)

    def on_chain_error(
        self,
        error: BaseException,
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        **kwargs: Any,
    ) -> None:
        """A graph, node or chain failed, or was interrupted."""
        with self._recorder.guard():
            self._leave(run_id, parent_run_id, completed=False)

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
        with self._recorder.guard():
            ancestors = self._enter(run_id, parent_run_id)
            if self._stopped or not messages:
                return
            read = tuple(to_message(m) for m in messages[0] if m.type != "remove")
            about = metadata or {}
            asked = kwargs.get("invocation_params") or {}
            model = about.get("ls_model_name") or asked.get("model_name") or asked.get("model")
            call = ModelCall(
                key=_key(about, ancestors),
                run_id=str(run_id),
                ancestors=ancestors,
                messages=read,
                errors=error_ids(messages[0]),
                tools=to_tools(asked.get("tools") or ()),
                model=str(model) if model else None,
                provenance=_provenance(about, run_id, parent_run_id),
                started_at=datetime.now(UTC),
                clock=time.monotonic(),
                digests=prefixes(read),
            )
            self._recorder.outer_calls.enter(str(run_id), read)
            with self._lock:
                self._calls[run_id] = call
            self._conversations.start(call)

    def on_llm_end(
        self,
        response: LLMResult,
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        **kwargs: Any,
    ) -> None:
        """A model answered: the message is the action of a step."""
        with self._recorder.guard():
            self._recorder.outer_calls.leave(str(run_id))
            with self._lock:
                call = self._calls.pop(run_id, None)
            action = to_action(response)
            if call is not None and action is not None and not self._stopped:
                message, usage, model = action
                latency_s = time.monotonic() - call.clock
                self._conversations.finish(
                    call, message, usage=usage, model=model, latency_s=latency_s
                )
            self._leave(run_id, parent_run_id, completed=True)

    def on_llm_error(
        self,
        error: BaseException,
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        **kwargs: Any,
    ) -> None:
        """A model failed: there is no action, so there is no step."""
        with self._recorder.guard():
            self._recorder.outer_calls.leave(str(run_id))
            with self._lock:
                self._calls.pop(run_id, None)
            self._leave(run_id, parent_run_id, completed=False)

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
        with self._recorder.guard():
            ancestors = self._enter(run_id, parent_run_id)
            with self._lock:
                self._tools[run_id] = (
                    _key(metadata or {}, ancestors),
                    ancestors,
                    kwargs.get("tool_call_id"),
                )

    def on_tool_end(
        self,
        output: Any,
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        **kwargs: Any,
    ) -> None:
        """A tool answered: an observation of the step that called it."""
        with self._recorder.guard():
            key, ancestors, _ = self._tool(run_id)
            if not self._stopped:
                for message in tool_results(output):
                    self._conversations.result(
                        key, ancestors, to_message(message), error=message.status == "error"
                    )
            self._leave(run_id, parent_run_id, completed=True)

    def on_tool_error(
        self,
        error: BaseException,
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        **kwargs: Any,
    ) -> None:
        """A tool failed; an interrupt of the graph is no failure, the step waits for the resume."""
        with self._recorder.guard():
            key, ancestors, call_id = self._tool(run_id)
            if call_id is not None and not self._stopped and not _is_control_flow(error):
                if isinstance(error, Exception):
                    text = str(error) or type(error).__name__
                    message = Message(role="tool", content=text, tool_call_id=call_id)
                    self._conversations.result(key, ancestors, message, error=True)
                else:
                    self._conversations.interrupt(key, ancestors, call_id)
            self._leave(run_id, parent_run_id, completed=False)

    def _tool(self, run_id: UUID) -> tuple[str, Ancestors, str | None]:
        with self._lock:
            return self._tools.pop(run_id, ("", (), None))

    def _enter(self, run_id: UUID, parent_run_id: UUID | None) -> Ancestors:
        with self._lock:
            above = ()
            if parent_run_id is not None:
                above = self._runs.get(parent_run_id, (str(parent_run_id),))
            ancestors = (*above, str(run_id))
            self._runs[run_id] = ancestors
            while len(self._runs) > KEPT_RUNS:
                lost, _ = self._runs.popitem(last=False)
                self._calls.pop(lost, None)
                self._tools.pop(lost, None)
            return ancestors

    def _leave(self, run_id: UUID, parent_run_id: UUID | None, *, completed: bool) -> None:
        with self._lock:
            self._runs.pop(run_id, None)
        if parent_run_id is None:
            # Only runs without a thread are kept under their own id.
            self._conversations.forget(str(run_id), completed=completed and not self._stopped)


def _key(metadata: Mapping[str, Any], ancestors: Ancestors) -> str:
    thread_id = metadata.get("thread_id")
    return ancestors[0] if thread_id is None else str(thread_id)


def _provenance(
    metadata: Mapping[str, Any], run_id: UUID, parent_run_id: UUID | None
) -> Provenance:
    def text(name: str) -> str | None:
        value = metadata.get(name)
        return None if value is None else str(value)

    return Provenance(
        run_id=str(run_id),
        parent_run_id=None if parent_run_id is None else str(parent_run_id),
        node=text("langgraph_node"),
        checkpoint_ns=text("langgraph_checkpoint_ns") or text("checkpoint_ns"),
        thread_id=text("thread_id"),
        agent_name=text("lc_agent_name"),
    )


def _is_control_flow(error: BaseException) -> bool:
    """Whether it is langgraph's interrupt or a command to a parent graph, by name: no import."""
    return any(base.__name__ == "GraphBubbleUp" for base in type(error).__mro__)


def _fingerprint() -> Fingerprint:
    for package in ("langgraph", "langchain-core"):
        try:
            return Fingerprint(package=package, version=version(package))
        except PackageNotFoundError:
            continue
    return Fingerprint()
