"""What the agent's threads hand over to the writer's: snapshots now, everything else later.

Each function here takes some microseconds and never waits. Used by the callbacks and by the
middleware, so that both record the same.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage, ToolMessage

import rwml
from rwml import forking
from rwml.outer_calls import Enrichment
from rwml.schema import Fingerprint
from rwml_adapters.langchain.calls import Answer, Metadata, ModelCall, Runs, ToolRun
from rwml_adapters.langchain.conversations import Conversations
from rwml_adapters.langchain.messages import to_message, tool_results
from rwml_adapters.langchain.snapshots import History, Snapshots

KEPT_HISTORIES = 1_000
"""Runs in flight whose last request is held, so that the next is cheap (ours)."""
KEPT_THREADLESS = 100_000
"""Runs in flight without a thread (ours)."""


class Intake:
    """Takes calls and results; may be used from any thread.

    Args:
        recorder: where the trajectories go.

    Attributes:
        recorder: the same.
        conversations: what is known in the writer's thread.
        is_stopped: whether it was told to take nothing more.
    """

    def __init__(self, recorder: rwml.Recorder) -> None:
        self.recorder = recorder
        self.is_stopped = False
        self._snapshots = Snapshots()
        self._threadless: set[int] = set()  # operations on a set or dict are atomic
        self._histories: dict[int, History] = {}
        self.conversations = self._new_conversations()
        forking.register(self, child=Intake._in_child)

    @property
    def is_open(self) -> bool:
        """Whether it takes anything."""
        return not self.is_stopped and not self.recorder.takes_nothing

    def stop(self) -> None:
        """Takes nothing from now on."""
        self.is_stopped = True

    def begin(
        self,
        messages: list[BaseMessage],
        runs: Runs,
        metadata: Metadata,
        tools: Any,
        asked: Mapping[str, Any],
        says: str | None,
    ) -> ModelCall:
        """Takes a call of a chat model as it is now; see `ModelCall`."""
        root = runs[0]
        # Popped: two calls of a run at once do not share what is not for two threads.
        taken, history = self._snapshots.of_all(messages, self._histories.pop(root, None))
        if metadata is None or metadata.get("thread_id") is None:
            self._threadless.add(root)
        if len(runs) > 1:  # the run may ask again
            self._histories[root] = history
        offered = self._snapshots.of_tools(tools) if tools else None
        call = ModelCall(runs, metadata, taken, offered, asked, says)
        if "litellm" in sys.modules:  # else nobody further in could see it
            outer_calls = self.recorder.outer_calls
            outer_calls.on_enrich(self._hear)
            outer_calls.enter(call.name, [to_message(each) for each in taken])
            call.is_entered = True
        return call

    def finish(
        self, call: ModelCall, message: AIMessage | None, output: dict[str, Any] | None = None
    ) -> None:
        """Takes the end of a call.

        Args:
            call: that has ended.
            message: the model's; None where it failed.
            output: what the model reported beside it.
        """
        latency_s = time.perf_counter() - call.clock
        if call.is_entered:
            self.recorder.outer_calls.leave(call.name)
        if self.is_stopped:
            return
        answer = None
        if message is not None:
            answer = Answer(self._snapshots.of(message), output, latency_s)
        size = answer.message.size if answer else 0
        if call.messages:
            size += call.messages[-1].size  # the others are shared with the calls before
        self.recorder.defer(self.conversations.finish, call, answer, size=size)

    def answer(self, tool: ToolRun, output: Any) -> None:
        """Takes what a tool returned."""
        if self.is_stopped:
            return
        messages = (output,) if type(output) is ToolMessage else tool_results(output)
        for message in messages:
            taken = self._snapshots.of(message)
            self.recorder.defer(self.conversations.result, tool, taken, size=taken.size)

    def fail(self, tool: ToolRun, error: BaseException) -> None:
        """Takes that a tool raised."""
        if tool.call_id is None or self.is_stopped or _is_control_flow(error):
            return
        if isinstance(error, Exception):
            text = str(error) or type(error).__name__
            self.recorder.defer(self.conversations.error, tool, text, size=len(text))
        else:
            self.interrupt(tool)

    def interrupt(self, tool: ToolRun) -> None:
        """Takes that a tool was cut off."""
        if tool.call_id is not None and not self.is_stopped:
            self.recorder.defer(self.conversations.interrupt, tool)

    def end(self, run: int, *, completed: bool = True) -> None:
        """Takes that a root run ended; `completed` says whether well."""
        self._histories.pop(run, None)
        if run in self._threadless:
            self._threadless.discard(run)
            if not self.is_stopped:
                self.recorder.defer(self.conversations.end, run, completed)

    def bound(self) -> None:
        """Forgets what runs that never ended have left."""
        while len(self._threadless) > KEPT_THREADLESS:
            self._threadless.pop()
        while len(self._histories) > KEPT_HISTORIES:
            self._histories.pop(next(iter(self._histories)), None)

    def _new_conversations(self) -> Conversations:
        return Conversations(recorder=self.recorder, fingerprint=_fingerprint())

    def _in_child(self) -> None:
        """The parent's trajectories are its own: what goes on here is found in the store."""
        self.conversations = self._new_conversations()

    def _hear(self, name: str, enrichment: Enrichment) -> None:
        self.recorder.defer(self.conversations.enrich, name, enrichment)


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
