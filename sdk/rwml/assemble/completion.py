"""One chat completion as logs, gateways and callbacks see it: a request and its answer."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING

from pydantic import JsonValue

from rwml.schema import Message, Provenance, Tool, Usage

if TYPE_CHECKING:
    from rwml.assemble.history import History


@dataclass(frozen=True, kw_only=True)
class Caller:
    """Who made a call, where that is known: frameworks say it, logs do not.

    Attributes:
        runs: ids of the runs around the call, the root first, the call itself last.
        site: where in a run the call was made, the same when that place is run again (as after an
            interrupt). Equal completions of different sites are different calls, not retries.
        agent: which of a thread's agents calls; None where they cannot be told apart.
        says: whether the request holds, besides the system prompt, only what the user said to
            start this run: the agent was not given the thread's history.
    """

    runs: tuple[object, ...] = ()
    site: str | None = None
    agent: str | None = None
    says: bool = False


NOBODY = Caller()


@dataclass(frozen=True, kw_only=True)
class Completion:
    """A request to a chat model and its response.

    Attributes:
        messages: the request, the whole history as it was sent.
        response: the assistant message; None where the call failed. A failed call is no step, but
            its request still says what came back of the action before.
        tools: tools that the request offered.
        failed_calls: ids of tool calls in `messages` whose results are known to be errors.
        model: the model that answered.
        usage: token counts.
        started_at: when the request was sent. Where given, it decides which of two branches came
            first, so that the order of arrival does not matter.
        latency_s: seconds from the request to the whole response.
        thread_id: the conversation's id. Histories of different threads are never linked; None is
            a scope of its own.
        provenance: where the call comes from.
        metadata: kept with the step.
        name: id of the trajectory that begins with this call, if one does; None for one that is
            made of the digests, so that the same call gets the same id again.
        about: metadata of that trajectory.
        caller: who made the call.
        history: the request as `LineReader` read it, whose `messages` are these: what it knows of
            them is not made anew.
    """

    messages: tuple[Message, ...]
    response: Message | None
    tools: tuple[Tool, ...] = ()
    failed_calls: frozenset[str] = frozenset()
    model: str | None = None
    usage: Usage | None = None
    started_at: datetime | None = None
    latency_s: float | None = None
    thread_id: str | None = None
    provenance: Provenance | None = None
    metadata: dict[str, JsonValue] = field(default_factory=dict)
    name: str | None = None
    about: dict[str, JsonValue] = field(default_factory=dict)
    caller: Caller = NOBODY
    history: History | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, kw_only=True)
class ToolResult:
    """What a tool answered, known before the request that shows it to the model.

    Attributes:
        message: the tool message; its `tool_call_id` says which call it answers.
        digest: of the message, by the assembler's hasher.
        failed: whether it is an error.
        thread_id: as in `Completion`.
        runs: ids of the runs around the tool, the root first.
        checkpoint_ns: LangGraph's name of the place where the tool ran.
    """

    message: Message
    digest: bytes
    failed: bool = False
    thread_id: str | None = None
    runs: tuple[object, ...] = ()
    checkpoint_ns: str | None = None
