"""Which trajectory a model call belongs to, and what came back of each action.

A call continues the trajectory whose known history (up to and including its last action) its
messages extend; else it starts one of its own, so that sub-agents, retries and rewritten histories
never end in wrong pairs. Histories are kept as chained hashes, so memory does not grow with them.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime

import rwml
from rwml.schema import Fingerprint, Message, Outcome, Provenance, Step, Tool, Trajectory, Usage

KEPT_CONVERSATIONS = 10_000
"""Conversations kept in memory, the least recently used goes first (ours)."""
KEPT_BRANCHES = 64
"""Trajectories kept in memory per conversation (ours)."""

Ancestors = tuple[str, ...]
"""Run ids from the root to a run."""


@dataclass(frozen=True, kw_only=True)
class ModelCall:
    """A chat-model call that has started.

    Attributes:
        key: thread id, or root run id where the run has no thread.
        run_id: of the call itself.
        ancestors: run ids from the root down to the call.
        messages: the context it saw.
        errors: ids of tool calls in `messages` whose result is an error.
        digests: chained hash of each prefix of `messages`, from the empty one on.
        clock: monotonic seconds at the start.
    """

    key: str
    run_id: str
    ancestors: Ancestors
    messages: tuple[Message, ...]
    errors: frozenset[str]
    tools: tuple[Tool, ...]
    model: str | None
    provenance: Provenance
    started_at: datetime
    clock: float
    digests: tuple[bytes, ...]


@dataclass
class _Branch:
    """One trajectory that is being recorded; `step` is its last one."""

    header: Trajectory
    step: Step
    ancestors: Ancestors
    results: dict[str, Message] = field(default_factory=dict)
    errors: set[str | None] = field(default_factory=set)
    settled: tuple[Message, ...] = ()

    def calls(self, call_id: str) -> bool:
        return any(call.id == call_id for call in self.step.action.tool_calls)

    def observed(self) -> Step:
        """The last step with what came back: the history's word, else the tools' own."""
        messages = self.settled or tuple(self.results.values())
        open_calls = {call.id for call in self.step.action.tool_calls} - set(self.results)
        failed = any(m.role == "tool" and m.tool_call_id in self.errors for m in messages)
        done = bool(self.settled) or not open_calls
        return self.step.model_copy(
            update={
                "observation": messages,
                "kind": "tool" if any(m.role == "tool" for m in messages) else "user",
                "status": ("error" if failed else "ok") if done else "pending",
            }
        )


_Conversation = OrderedDict[bytes, _Branch]
"""Trajectories of a conversation by the digest of their history, the latest last."""


class Conversations:
    """All conversations of a process; every method may be called from any thread.

    Args:
        recorder: where the trajectories go.
        fingerprint: put on each of them.
        kept: how many conversations stay in memory.
    """

    def __init__(
        self,
        *,
        recorder: rwml.Recorder,
        fingerprint: Fingerprint,
        kept: int = KEPT_CONVERSATIONS,
    ) -> None:
        self._recorder = recorder
        self._fingerprint = fingerprint
        self._kept = kept
        self._lock = threading.Lock()
        self._conversations: OrderedDict[str, _Conversation] = OrderedDict()

    def __len__(self) -> int:
        return len(self._conversations)

    def start(self, call: ModelCall) -> None:
        """A call's history may already say what came back of the action before."""
        with self._lock:
            branch, rest = _find(self._conversation(call.key), call)
            if branch is not None and not branch.settled:
                self._settle(branch, rest, call)

    def finish(
        self,
        call: ModelCall,
        action: Message,
        *,
        usage: Usage | None,
        model: str | None,
        latency_s: float,
    ) -> None:
        """A call gave its action: one more step, of the trajectory it extends or of a new one."""
        with self._lock:
            conversation = self._conversation(call.key)
            branch, rest = _find(conversation, call)
            step = Step(
                index=branch.step.index + 1 if branch else 0,
                action=action,
                started_at=call.started_at,
                latency_s=latency_s,
                model=model or call.model,
                usage=usage,
                provenance=call.provenance,
            )
            if branch is None:
                branch = _Branch(header=self._header(call), step=step, ancestors=call.ancestors)
                self._recorder.record_header(branch.header)
            else:
                self._continue(conversation, branch, step, rest, call)
            self._recorder.record_step(branch.header.id, step)
            conversation[chain(call.digests[-1], action)] = branch
            conversation.move_to_end(chain(call.digests[-1], action))
            while len(conversation) > KEPT_BRANCHES:
                conversation.popitem(last=False)

    def result(self, key: str, ancestors: Ancestors, message: Message, *, error: bool) -> None:
        """A tool answered. Results that answer no known call are left alone."""
        with self._lock:
            branch = self._caller(key, message.tool_call_id or "", ancestors)
            if branch is None:
                return
            call_id = str(message.tool_call_id)
            branch.results[call_id] = message
            (branch.errors.add if error else branch.errors.discard)(call_id)
            self._recorder.record_step(branch.header.id, branch.observed())

    def interrupt(self, key: str, ancestors: Ancestors, call_id: str) -> None:
        """A tool was cut off (cancelled): the step is kept and marked."""
        with self._lock:
            branch = self._caller(key, call_id, ancestors)
            if branch is not None:
                step = branch.observed().model_copy(update={"status": "interrupted"})
                self._recorder.record_step(branch.header.id, step)

    def forget(self, key: str, *, completed: bool) -> None:
        """A run without a thread ended: nothing can follow, so nothing is kept."""
        with self._lock:
            conversation = self._conversations.pop(key, {})
            if completed:
                for branch in conversation.values():
                    outcome = Outcome(status="completed")
                    self._recorder.record_header(
                        branch.header.model_copy(update={"outcome": outcome})
                    )

    def _conversation(self, key: str) -> _Conversation:
        conversation = self._conversations.setdefault(key, OrderedDict())
        self._conversations.move_to_end(key)
        while len(self._conversations) > self._kept:
            self._conversations.popitem(last=False)
        return conversation

    def _header(self, call: ModelCall) -> Trajectory:
        thread_id = call.provenance.thread_id
        return Trajectory(
            # A thread id alone is no identity: "1" comes back in every process.
            id=f"{call.key}:{call.run_id}",
            source="langgraph",
            initial=call.messages,
            tools=call.tools,
            fingerprint=self._fingerprint,
            started_at=call.started_at,
            metadata={"thread_id": thread_id} if thread_id is not None else {},
        )

    def _continue(
        self,
        conversation: _Conversation,
        branch: _Branch,
        step: Step,
        rest: tuple[Message, ...],
        call: ModelCall,
    ) -> None:
        """Moves a branch on: its last step gets its observation, `step` becomes the last."""
        self._settle(branch, rest, call)
        for digest in [known for known, other in conversation.items() if other is branch]:
            del conversation[digest]
        known_tools = {tool.name for tool in branch.header.tools}
        more = tuple(tool for tool in call.tools if tool.name not in known_tools)
        if more:
            tools = branch.header.tools + more
            branch.header = branch.header.model_copy(update={"tools": tools})
            self._recorder.record_header(branch.header)
        branch.step, branch.ancestors = step, call.ancestors
        branch.results, branch.errors, branch.settled = {}, set(), ()

    def _settle(self, branch: _Branch, rest: tuple[Message, ...], call: ModelCall) -> None:
        if not rest or rest == branch.settled:
            return
        branch.settled = rest
        branch.errors = {m.tool_call_id for m in rest if m.tool_call_id in call.errors}
        self._recorder.record_step(branch.header.id, branch.observed())

    def _caller(self, key: str, call_id: str, ancestors: Ancestors) -> _Branch | None:
        """The branch whose last action made this call: the nearest in the tree of runs."""
        known = self._conversations.get(key, {}).values()
        branches = [b for b in known if not b.settled and b.calls(call_id)]
        return max(reversed(branches), key=lambda b: _shared(b.ancestors, ancestors), default=None)


def chain(previous: bytes, message: Message) -> bytes:
    """Digest of a history: of the one before and a message (names and reasoning left out)."""
    calls = [
        [call.id, call.name, call.raw_arguments, json.dumps(call.arguments, sort_keys=True)]
        for call in message.tool_calls
    ]
    text = json.dumps([message.role, message.content or "", calls, message.tool_call_id])
    return hashlib.blake2b(previous + text.encode(), digest_size=16).digest()


def prefixes(messages: Iterable[Message]) -> tuple[bytes, ...]:
    """Digest of every prefix of a history, the empty one first."""
    digests = [b""]
    for message in messages:
        digests.append(chain(digests[-1], message))
    return tuple(digests)


def _find(
    conversation: _Conversation, call: ModelCall
) -> tuple[_Branch | None, tuple[Message, ...]]:
    """The branch that a call extends, and the messages that are new since its last action."""
    for length in range(len(call.digests) - 1, -1, -1):
        branch = conversation.get(call.digests[length])
        if branch is not None:
            rest = call.messages[length:]
            # Somebody else's action in between: not what this branch's action led to.
            return (None, ()) if any(m.role == "assistant" for m in rest) else (branch, rest)
    return None, ()


def _shared(first: Sequence[str], second: Sequence[str]) -> int:
    count = 0
    for one, other in zip(first, second, strict=False):
        if one != other:
            break
        count += 1
    return count
