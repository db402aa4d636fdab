"""What an agent had seen when it called a tool, as a world model is to be asked about it.

The same reading of LangChain's messages as the recorder's, so that the question is the one that
training would have made of the recorded call. A tool call knows the conversation, but not the
system prompt nor the tools: those are noted when the model is called.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, NamedTuple

from langchain.agents.middleware.types import ModelRequest
from langchain_core.messages import BaseMessage
from langgraph.prebuilt.tool_node import ToolCallRequest

from rwml.content import NOT_RUN_MARK
from rwml.schema import Message, Step, Tool, ToolCall, Trajectory
from rwml_adapters.langchain.calls import Where
from rwml_adapters.langchain.conversations import SOURCE
from rwml_adapters.langchain.messages import model_answers, to_message, to_tools
from rwml_adapters.langchain.snapshots import OfferedTools, Snapshots

KEPT_CALLS = 10_000
"""Tool calls whose system prompt and tools are remembered; the oldest go first (ours)."""


class Situation(NamedTuple):
    """A tool call, and what came before it.

    Attributes:
        trajectory: up to the call.
        action: the agent's message with this call alone: calls at once are asked one by one.
        since: what was said since the user last spoke.
        thread_id: of the conversation; None where it has none.
        tenant: whose conversation it is; None where nobody says.
    """

    trajectory: Trajectory
    action: Message
    since: tuple[Message, ...]
    thread_id: str | None
    tenant: str | None

    @property
    def call(self) -> ToolCall:
        """The tool call."""
        return self.action.tool_calls[0]

    @property
    def was_held_back(self) -> bool:
        """Whether the same call was held back since the user last spoke."""
        held = {m.tool_call_id for m in self.since if (m.content or "").startswith(NOT_RUN_MARK)}
        return any(
            call.id in held and (call.name, call.arguments) == (self.call.name, self.call.arguments)
            for message in self.since
            for call in message.tool_calls
        )


class _Offer(NamedTuple):
    system: Message | None
    tools: OfferedTools | None


class Situations:
    """Reads situations off an agent's requests; may be used from any thread."""

    def __init__(self) -> None:
        self._snapshots = Snapshots()
        self._lock = threading.Lock()
        self._offers: OrderedDict[str, _Offer] = OrderedDict()
        self._last: _Offer | None = None

    def note(self, request: ModelRequest, response: Any) -> None:
        """Takes in what a model was offered, and which calls it answered."""
        system = request.system_message
        offer = _Offer(
            None if system is None else to_message(self._snapshots.of(system)),
            self._snapshots.of_tools(request.tools),
        )
        names = [call["id"] for each in model_answers(response) for call in each.tool_calls]
        with self._lock:
            self._last = offer
            for name in names:
                self._offers[str(name)] = offer
            while len(self._offers) > KEPT_CALLS:
                self._offers.popitem(last=False)

    def alone(self, request: ToolCallRequest) -> Situation:
        """The call without what came before it, for where that cannot be read."""
        asked, where = request.tool_call, _where(request)
        call = ToolCall(id=str(asked["id"]), name=asked["name"], arguments=asked["args"])
        action = Message(role="assistant", tool_calls=(call,))
        return Situation(Trajectory(source=SOURCE), action, (), where.thread_id, where.tenant)

    def in_child(self) -> None:
        """After a fork: who held the lock stayed in the parent."""
        self._lock = threading.Lock()

    def of(self, request: ToolCallRequest) -> Situation:
        """What the agent had seen when it made this call.

        Raises:
            LookupError: the agent's state does not hold the call.
        """
        name = str(request.tool_call["id"])
        with self._lock:
            offer = self._offers.get(name) or self._last  # the call of another process, resumed
        taken, _ = self._snapshots.of_all(_messages_of(request.state))
        messages = [to_message(each) for each in taken]
        for place in range(len(messages) - 1, -1, -1):
            calls = tuple(call for call in messages[place].tool_calls if call.id == name)
            if calls:
                break
        else:
            raise LookupError(f"no message of the agent's state holds the call {name}")
        before = messages[:place]
        where = _where(request)
        system = () if offer is None or offer.system is None else (offer.system,)
        spoken = [at for at, message in enumerate(before) if message.role == "user"]
        return Situation(
            _trajectory((*system, *before), _tools(offer, request)),
            messages[place].model_copy(update={"tool_calls": calls, "name": None}),
            tuple(before[spoken[-1] + 1 :] if spoken else before),
            where.thread_id,
            where.tenant,
        )


def _where(request: ToolCallRequest) -> Where:
    return Where((request.runtime.config or {}).get("metadata") if request.runtime else None)


def _tools(offer: _Offer | None, request: ToolCallRequest) -> tuple[Tool, ...]:
    """What the model was offered; where nobody saw that, the tool that it calls."""
    if offer is not None:
        return to_tools(offer.tools)
    return to_tools(None if request.tool is None else OfferedTools([request.tool]))


def _messages_of(state: Any) -> list[BaseMessage]:
    if isinstance(state, list):
        return state
    found = state.get("messages") if isinstance(state, dict) else getattr(state, "messages", None)
    return found if isinstance(found, list) else []


def _trajectory(messages: Sequence[Message], tools: tuple[Tool, ...]) -> Trajectory:
    """A conversation as a trajectory: a step is an answer of the agent and what came back."""
    starts = [place for place, message in enumerate(messages) if message.role == "assistant"]
    ends = [*starts[1:], len(messages)]
    steps = [
        Step(
            index=index,
            action=messages[start].model_copy(update={"name": None}),  # the agent's signature
            observation=tuple(messages[start + 1 : end]),
            kind="tool" if any(m.role == "tool" for m in messages[start + 1 : end]) else "user",
            status="ok",
        )
        for index, (start, end) in enumerate(zip(starts, ends, strict=False))
    ]
    first = starts[0] if starts else len(messages)
    return Trajectory(
        source=SOURCE, initial=tuple(messages[:first]), tools=tools, steps=tuple(steps)
    )
