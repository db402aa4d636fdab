"""The writer's side: snapshots become completions and tool results for the one assembler.

Everything here runs in the writer's thread, call by call in the order in which they were made, so
there are no locks. Which trajectory a call belongs to is decided by `rwml.assemble` alone; this
module only says what LangChain knows beside the messages.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from datetime import UTC, datetime
from uuid import UUID

import rwml
from rwml.assemble import Assembler, AssemblyStats, Caller, Completion, Digests, ToolResult
from rwml.capture import TENANT_KEY
from rwml.outer_calls import Enrichment
from rwml.records import HeaderRecord, Record, StepRecord
from rwml.schema import Fingerprint, Message, Provenance
from rwml_adapters.langchain.calls import Answer, ModelCall, Runs, ToolRun, Where
from rwml_adapters.langchain.messages import model_of, to_message, to_tools, usage_of
from rwml_adapters.langchain.snapshots import Snapshot

SOURCE = "langgraph"
KEPT_CONVERSATIONS = 10_000
"""Trajectories kept in memory, the least recently used goes first (ours)."""
KEPT_BYTES = 32 << 20
"""Memory that they may take, roughly; the store knows those that are let go (ours)."""
KEPT_ROOTS = 10_000
"""Runs without a thread whose trajectories are remembered until the run ends (ours)."""
KEPT_STEPS = 1_000
"""Steps that inner recorders may still add to (ours)."""


class Conversations:
    """All conversations of a process. Only for the writer's thread.

    Args:
        recorder: where the trajectories go.
        fingerprint: put on each of them.
        kept: how many trajectories stay in memory.
    """

    def __init__(
        self,
        *,
        recorder: rwml.Recorder,
        fingerprint: Fingerprint,
        kept: int = KEPT_CONVERSATIONS,
    ) -> None:
        self._recorder = recorder
        self._hasher = recorder.hasher
        self._assembler = Assembler(
            key=recorder.hasher,
            source=SOURCE,
            fingerprint=fingerprint,
            kept=kept,
            kept_bytes=KEPT_BYTES,
        )
        self._roots: OrderedDict[int, set[str]] = OrderedDict()
        self._told: OrderedDict[str, StepRecord] = OrderedDict()
        self._told_names: dict[tuple[str, int], str] = {}

    def __len__(self) -> int:
        return len(self._assembler)

    @property
    def stats(self) -> AssemblyStats:
        """What became of the calls so far."""
        return self._assembler.stats

    def finish(self, call: ModelCall, answer: Answer | None) -> None:
        """A call gave its action, or none where it failed."""
        completion, digests = self._read(call, answer)
        records = self._assembler.place(completion, digests)
        if call.is_entered and answer is not None:
            self._follow(call.name, records)
        self._put(records)
        if completion.thread_id is None:
            self._note_root(call.runs[0], records)
        if call.is_entered:
            enrichment = self._recorder.outer_calls.take(call.name)
            if enrichment is not None:
                self.enrich(call.name, enrichment)

    def result(self, tool: ToolRun, taken: Snapshot) -> None:
        """A tool answered."""
        message = to_message(taken)
        if taken.digest is None:
            taken.digest = self._hasher.message(message)
        self._result(tool, message, taken.digest, failed=taken.is_error)

    def error(self, tool: ToolRun, text: str) -> None:
        """A tool failed; what the agent makes of it, if it goes on, will be in the history."""
        message = Message(role="tool", content=text, tool_call_id=tool.call_id)
        self._result(tool, message, self._hasher.message(message), failed=True)

    def interrupt(self, tool: ToolRun) -> None:
        """A tool was cut off (cancelled): the step is kept and marked."""
        message = Message(role="tool", tool_call_id=tool.call_id)
        self._put(self._assembler.interrupt(_tool_result(tool, message, b"", failed=True)))

    def end(self, root: int, completed: bool) -> None:
        """A run without a thread ended."""
        for name in self._roots.pop(root, ()) if completed else ():
            self._put(self._assembler.complete(name))

    def enrich(self, name: str, enrichment: Enrichment) -> None:
        """An inner recorder knows more of a call; what is recorded already is not replaced."""
        record = self._told.get(name)
        if record is None:
            return
        better = enrichment.fill(record.step)
        if better is not record.step:
            self._put([record._replace(step=better)])
            self._assembler.improve(record.trajectory_id, enrichment.fill)

    def _read(self, call: ModelCall, answer: Answer | None) -> tuple[Completion, Digests]:
        where = Where(call.metadata)
        thread_id = where.thread_id
        # A tenant's histories are its own, with or without a thread.
        scope = thread_id if where.tenant is None else json.dumps([where.tenant, thread_id])
        messages, digests, prefixes = self._history(scope, call.messages)
        response = None
        if answer is not None:
            response = to_message(answer.message)
            if answer.message.digest is None:
                answer.message.digest = self._hasher.message(response)
            if response.name is not None and response.name == where.agent:
                # An agent signs its answers after the callbacks have seen them.
                response = response.model_copy(update={"name": None})
        root = str(UUID(int=call.runs[0]))
        completion = Completion(
            messages=messages,
            response=response,
            tools=to_tools(call.tools),
            failed_calls=frozenset(
                str(each.fields.get("tool_call_id")) for each in call.messages if each.is_error
            ),
            model=call.model if answer is None else model_of(answer) or call.model,
            usage=None if answer is None else usage_of(answer),
            started_at=datetime.fromtimestamp(call.started, UTC),
            latency_s=None if answer is None else answer.latency_s,
            thread_id=_thread_of(where),
            provenance=_provenance(where, call.runs),
            # A thread id alone is no identity: "1" comes back in every process.
            name=f"{thread_id or root}:{call.name}",
            about={} if where.tenant is None else {"tenant": where.tenant},
            caller=Caller(
                runs=call.runs,
                site=where.checkpoint_ns or (root if thread_id is None else None),
                agent=_agent(where),
                says=_says(call, messages),
            ),
        )
        known = None if answer is None else answer.message.digest
        return completion, self._hasher.digests(completion, digests, prefixes, response=known)

    def _history(
        self, thread_id: str | None, taken: list[Snapshot]
    ) -> tuple[tuple[Message, ...], tuple[bytes, ...], tuple[bytes, ...]]:
        """Messages, their digests and those of each prefix; of known messages nothing is made."""
        hasher = self._hasher
        prefix = hasher.scope(thread_id)
        prefixes, digests = [prefix], []
        for each in taken:
            digest = each.digest
            if digest is None:
                digest = each.digest = hasher.message(to_message(each))
            if each.before != prefix:
                each.before, each.prefix = prefix, hasher.extend(prefix, digest)
            prefix = each.prefix
            digests.append(digest)
            prefixes.append(prefix)
        messages = tuple(each.message or to_message(each) for each in taken)
        return messages, tuple(digests), tuple(prefixes)

    def _result(self, tool: ToolRun, message: Message, digest: bytes, *, failed: bool) -> None:
        self._put(self._assembler.result(_tool_result(tool, message, digest, failed=failed)))

    def _note_root(self, root: int, records: list[Record]) -> None:
        names = self._roots.setdefault(root, set())
        names.update(r.trajectory_id for r in records if isinstance(r, StepRecord))
        while len(self._roots) > KEPT_ROOTS:
            self._roots.popitem(last=False)

    def _follow(self, name: str, records: list[Record]) -> None:
        """The last step of these records may be enriched."""
        last = records[-1] if records else None
        if not isinstance(last, StepRecord):
            return
        self._told[name] = last
        self._told_names[last.trajectory_id, last.step.index] = name
        while len(self._told) > KEPT_STEPS:
            _, lost = self._told.popitem(last=False)
            self._told_names.pop((lost.trajectory_id, lost.step.index), None)

    def _put(self, records: list[Record]) -> None:
        for record in records:
            if self._told and isinstance(record, StepRecord):
                name = self._told_names.get((record.trajectory_id, record.step.index))
                if name is not None:
                    self._told[name] = record
            if isinstance(record, HeaderRecord):
                record = _with_thread(record)
            self._recorder.put_deferred(record)


def _thread_of(where: Where) -> str | None:
    """The thread, apart from other tenants' threads of the same name."""
    if where.tenant is None or where.thread_id is None:
        return where.thread_id
    return json.dumps([where.tenant, where.thread_id])


def _with_thread(header: HeaderRecord) -> HeaderRecord:
    """The header with its thread in place of our scope."""
    metadata = dict(header.trajectory.metadata)
    if TENANT_KEY not in metadata or "thread_id" not in metadata:
        return header
    metadata["thread_id"] = json.loads(str(metadata["thread_id"]))[1]
    return header._replace(trajectory=header.trajectory.model_copy(update={"metadata": metadata}))


def _tool_result(tool: ToolRun, message: Message, digest: bytes, *, failed: bool) -> ToolResult:
    where = Where(tool.metadata)
    return ToolResult(
        message=message,
        digest=digest,
        failed=failed,
        thread_id=_thread_of(where),
        runs=tool.runs,
        checkpoint_ns=where.checkpoint_ns,
    )


def _says(call: ModelCall, messages: tuple[Message, ...]) -> bool:
    """Whether the model sees only what the user said to start this run."""
    spoken = [message for message in messages if message.role not in ("system", "developer")]
    if len(spoken) != 1 or spoken[0].role != "user" or messages[-1] is not spoken[0]:
        return False
    return len(call.runs) == 1 or (call.says is not None and spoken[0].content == call.says)


def _agent(where: Where) -> str:
    """Which agent of a graph calls: the names on the way to it, without the ids of tasks."""
    path = [part.split(":", 1)[0] for part in (where.checkpoint_ns or "").split("|")]
    return "|".join([*path, where.agent or ""])


def _provenance(where: Where, runs: Runs) -> Provenance:
    return Provenance(
        run_id=str(UUID(int=runs[-1])),
        parent_run_id=str(UUID(int=runs[-2])) if len(runs) > 1 else None,
        node=where.node,
        checkpoint_ns=where.checkpoint_ns,
        thread_id=_thread_of(where),
        agent_name=where.agent,
    )
