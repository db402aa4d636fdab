"""Imports a file of logs into a store: read, put in order, assembled, redacted, written.

Streamed: what is held at any time is bounded, whatever the size of the file. Idempotent: ids are
made from the completions with the store's key, so that importing a file again, or one that has
grown, gives the same rows.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from rwml.assemble import Assembler, Completion, Hasher
from rwml.assemble.ordering import in_order
from rwml.ingest.formats import is_ours, load_format, reader_of, sniff
from rwml.ingest.items import Conversation, Found, Rejected, Skipped, ToolRun
from rwml.ingest.records import read_records
from rwml.ingest.results import ToolResults
from rwml.ingest.writing import Writer
from rwml.schema import Message, Step, Trajectory
from rwml.store import Store
from rwml.trajectory_recorder import complete_step

Counted = TypeVar("Counted")

WINDOW = 256
"""Completions that are held to be put in order of time (ours)."""
WINDOW_CHARS = 16 * 2**20
"""Characters of these at most (ours)."""
KEPT_TRAJECTORIES = 10_000
"""Trajectories that stay open; one that goes on after that many others is split in two (ours)."""
KEPT_TRAJECTORY_BYTES = 64 * 2**20
"""What open trajectories may take together, roughly; the oldest are closed beyond it (ours)."""
KEPT_CALLS = 50_000
"""Ids of calls that are remembered, to tell a call inside another (ours)."""
KEPT_MESSAGES = 20_000
"""Messages that are remembered, so that histories that repeat them share them (ours)."""
KEPT_MESSAGE_CHARS = 8 * 2**20
LISTED_REJECTS = 1_000
"""Rejects that are listed with their reason; all are counted (ours)."""


@dataclass
class Summary:
    """What became of a file.

    Attributes:
        format: in which it was read.
        records: lines, or elements of a document, that were read.
        completions: model calls that were read; of these `failed` had no answer, `duplicates` were
            there before, `nested` were seen a second time from inside another call.
        conversations: whole conversations, or episodes, that were read.
        tool_results: records of tools.
        skipped: records of other things.
        trajectories: that the file holds, whether they were in the store before or not.
        steps: of these trajectories; `pending` of them wait for their observation.
        branches: answers or observations beside others; each has a trajectory.
        relinked: requests with a cut history, linked all the same.
        ambiguous: requests whose last action could be several; each began a trajectory.
        unlinked: requests whose last action is not in the file; each began a trajectory.
        closed: trajectories that were closed to bound the memory: going on, they would be split.
        quarantined: records that could not be imported.
        rejects: the first of them, each with place and reason.
    """

    format: str
    source: str
    records: int = 0
    completions: int = 0
    conversations: int = 0
    tool_results: int = 0
    skipped: int = 0
    trajectories: int = 0
    steps: int = 0
    pending: int = 0
    failed: int = 0
    duplicates: int = 0
    nested: int = 0
    branches: int = 0
    relinked: int = 0
    ambiguous: int = 0
    unlinked: int = 0
    closed: int = 0
    quarantined: int = 0
    rejects: list[Rejected] = field(default_factory=list)


def ingest_file(
    path: Path,
    store: Store,
    *,
    format: str | None = None,
    source: str | None = None,
    moved: Callable[[int], object] | None = None,
    rejected: Callable[[Rejected], object] | None = None,
) -> Summary:
    """Imports a file.

    Args:
        path: of the file, plain or compressed by gzip.
        store: where the trajectories go.
        format: of the file; None to find out.
        source: of the trajectories; None for the format's name, or their own where they have one.
        moved: is told the progress, in bytes of the file.
        rejected: is told of each record that could not be imported.

    Raises:
        UsageError: the file cannot be read, or its format is not known.
        MissingExtraError: it is a large document and ``rwml[ingest]`` is not installed, or its
            format needs a package that is not.
        StoreError: the store cannot be written.
    """
    chosen = format or sniff(path)
    summary = Summary(format=chosen, source=source or chosen)
    work = _Import(store, summary, rejected or _nothing, source=source)
    if is_ours(chosen):
        work.take(reader_of(chosen)(_counted(read_records(path, moved=moved), summary)))
    else:
        work.take(_counted(load_format(chosen).read(path, moved or _nothing), summary))
    return summary


def store_key(store: Store) -> bytes:
    """The secret from which ids are made; the same for a store in every process."""
    return store.key


class _Import:
    """One import in progress."""

    def __init__(
        self,
        store: Store,
        summary: Summary,
        rejected: Callable[[Rejected], object],
        *,
        source: str | None,
    ) -> None:
        self._summary = summary
        self._source = source
        self._rejected = rejected
        self._results = ToolResults()
        self._closing: list[str] = []
        key = store_key(store)
        self._writer = Writer(
            store,
            key=key,
            results=self._results,
            lost=lambda reason: self._reject(Rejected(reason=reason)),
        )
        self._assembler = Assembler(
            key=key,
            source=summary.source,
            kept=KEPT_TRAJECTORIES,
            kept_bytes=KEPT_TRAJECTORY_BYTES,
            closed=self._closing.append,
        )
        self._pool = _Pool()
        self._calls: OrderedDict[str, None] = OrderedDict()
        self._seen: OrderedDict[str, None] = OrderedDict()

    def take(self, items: Iterable[Found]) -> None:
        """Takes all that a reader finds, and counts it."""
        ordered = in_order(
            self._completions(items),
            self._assembler.hasher,
            window=WINDOW,
            window_chars=WINDOW_CHARS,
        )
        for completion, digests in ordered:
            if self._is_nested(completion):
                self._summary.nested += 1
                continue
            for record in self._assembler.place(self._results.mark(completion), digests):
                self._writer.take(record)
            while self._closing:  # not before the last records of these are taken
                self._writer.close(self._closing.pop())
        self._writer.finish()
        summary, stats = self._summary, self._assembler.stats
        summary.trajectories = self._writer.trajectories
        summary.steps, summary.pending = self._writer.steps, self._writer.pending
        summary.failed, summary.branches = stats.failed, stats.branches
        summary.duplicates += stats.duplicates
        summary.relinked, summary.ambiguous = stats.relinked, stats.ambiguous
        summary.unlinked, summary.closed = stats.unlinked, stats.evicted

    def _completions(self, items: Iterable[Found]) -> Iterator[Completion]:
        summary = self._summary
        for item in items:
            if isinstance(item, Completion):
                summary.completions += 1
                yield self._pool.share(item)
            elif isinstance(item, ToolRun):
                summary.tool_results += 1
                self._results.add(item)
            elif isinstance(item, Conversation):
                summary.conversations += 1
                self._add(self._to_trajectory(item))
            elif isinstance(item, Trajectory):
                summary.conversations += 1
                is_named = self._source is not None
                self._add(item.model_copy(update={"source": self._source}) if is_named else item)
            elif isinstance(item, Skipped):
                summary.skipped += 1
            else:
                self._reject(item)

    def _reject(self, item: Rejected) -> None:
        self._summary.quarantined += 1
        if len(self._summary.rejects) < LISTED_REJECTS:
            self._summary.rejects.append(item)
        self._rejected(item)

    def _is_nested(self, completion: Completion) -> bool:
        """Whether the call that contains this one was taken: two recorders saw the same call."""
        where = completion.provenance
        if where is None:
            return False
        if where.parent_run_id is not None and where.parent_run_id in self._calls:
            return True
        name = where.run_id or where.span_id
        if name is not None:
            _remember(self._calls, name, KEPT_CALLS)
        return False

    def _to_trajectory(self, conversation: Conversation) -> Trajectory:
        return to_trajectory(
            conversation, hasher=self._assembler.hasher, source=self._summary.source
        )

    def _add(self, trajectory: Trajectory) -> None:
        if trajectory.id in self._seen:
            self._summary.duplicates += 1
            return
        _remember(self._seen, trajectory.id, KEPT_CALLS)
        self._writer.add(trajectory)


def to_trajectory(conversation: Conversation, *, hasher: Hasher, source: str) -> Trajectory:
    """A whole conversation as a trajectory; its id is made from its messages."""
    initial: list[Message] = []
    steps: list[Step] = []
    for message in conversation.messages:
        if message.role == "assistant":
            steps.append(Step(index=len(steps), action=message))
        elif not steps:
            initial.append(message)
        else:
            failed = message.tool_call_id in conversation.failed_calls
            last = steps[-1]
            settled = last if last.status == "error" else last.model_copy(update={"status": "ok"})
            steps[-1] = complete_step(settled, (message,), status="error" if failed else "ok")
    name = hasher.join(b"conversation", *map(hasher.message, conversation.messages))
    return Trajectory(
        id=f"{source}-{name.hex()}",
        source=source,
        initial=tuple(initial),
        tools=conversation.tools,
        steps=tuple(steps),
    )


class _Pool:
    """Shares equal messages: a history comes again with every request of its conversation."""

    def __init__(self) -> None:
        self._known: OrderedDict[tuple[str | None, ...], Message] = OrderedDict()
        self._chars = 0

    def share(self, completion: Completion) -> Completion:
        """The completion with messages that earlier ones hold too."""
        shared = tuple(map(self._share, completion.messages))
        object.__setattr__(completion, "messages", shared)  # equal, and nobody has it yet
        return completion

    def _share(self, message: Message) -> Message:
        if message.tool_calls or message.reasoning:
            return message
        key = (message.role, message.content, message.tool_call_id, message.name)
        known = self._known.get(key)
        if known is not None and known == message:
            self._known.move_to_end(key)
            return known
        if known is None:
            self._chars += len(message.content or "")
        self._known[key] = message
        while len(self._known) > KEPT_MESSAGES or self._chars > KEPT_MESSAGE_CHARS:
            (_, text, *_), _ = self._known.popitem(last=False)
            self._chars -= len(text or "")
        return message


def _counted(records: Iterable[Counted], summary: Summary) -> Iterator[Counted]:
    for record in records:
        summary.records += 1
        yield record


def _remember(known: OrderedDict[str, None], name: str, kept: int) -> None:
    known[name] = None
    known.move_to_end(name)
    while len(known) > kept:
        known.popitem(last=False)


def _nothing(item: object) -> None:
    """Nobody wants to know."""
