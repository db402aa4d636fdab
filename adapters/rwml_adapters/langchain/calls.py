"""Model calls and tool runs on their way from the agent's thread to the writer's.

Plain values with slots: many are made in the agent's thread.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any
from uuid import UUID

from rwml_adapters.langchain.snapshots import OfferedTools, Snapshot

Runs = tuple[int, ...]
"""Ids of runs, each as a number, from the root of the tree of runs to a run."""
Metadata = Mapping[str, Any] | None
"""What LangChain and LangGraph say beside a call."""


class ModelCall:
    """A chat-model call that has started.

    Attributes:
        runs: from the root down to the call.
        metadata: of the run, which is LangChain's own copy.
        messages: the context it saw.
        tools: that it was offered.
        asked: the parameters that the model was asked with.
        says: what the user said to start the run; None where that is not known.
        started: seconds since the epoch.
        clock: monotonic seconds at the start.
        is_entered: whether inner recorders were told of it.
    """

    __slots__ = (
        "asked",
        "clock",
        "is_entered",
        "messages",
        "metadata",
        "runs",
        "says",
        "started",
        "tools",
    )

    def __init__(
        self,
        runs: Runs,
        metadata: Metadata,
        messages: list[Snapshot],
        tools: OfferedTools | None,
        asked: Mapping[str, Any],
        says: str | None,
    ) -> None:
        self.runs = runs
        self.metadata = metadata
        self.messages = messages
        self.tools = tools
        self.asked = asked
        self.says = says
        self.started = time.time()
        self.clock = time.perf_counter()
        self.is_entered = False

    @property
    def name(self) -> str:
        """The run's id."""
        return str(UUID(int=self.runs[-1]))

    @property
    def model(self) -> str | None:
        """The model as it was asked for."""
        asked = self.asked
        given = (self.metadata or {}).get("ls_model_name")
        return _text(given or asked.get("model_name") or asked.get("model") or None)


class Answer:
    """What the model said.

    Attributes:
        output: what the model reported beside its message.
        latency_s: seconds from the request to the whole answer.
    """

    __slots__ = ("latency_s", "message", "output")

    def __init__(
        self, message: Snapshot, output: Mapping[str, Any] | None, latency_s: float
    ) -> None:
        self.message = message
        self.output = output
        self.latency_s = latency_s


class ToolRun:
    """A tool that was called.

    Attributes:
        call_id: of the call that it answers; None where it was called by hand.
        runs: from the root down to the tool.
        metadata: as in `ModelCall`.
    """

    __slots__ = ("call_id", "metadata", "runs")

    def __init__(self, call_id: str | None, runs: Runs, metadata: Metadata) -> None:
        self.call_id = call_id
        self.runs = runs
        self.metadata = metadata


class Where:
    """What LangChain's metadata says of the place of a call, as text.

    Args:
        metadata: of the run.
    """

    def __init__(self, metadata: Metadata) -> None:
        given = metadata or {}
        self.thread_id = _text(given.get("thread_id"))
        self.node = _text(given.get("langgraph_node"))
        self.checkpoint_ns = _text(
            given.get("langgraph_checkpoint_ns") or given.get("checkpoint_ns") or None
        )
        self.agent = _text(given.get("lc_agent_name"))
        self.tenant = _text(given.get("tenant"))


def _text(value: object) -> str | None:
    return None if value is None else str(value)
