"""Writes what was assembled to a store: redacted, in batches, in bounded memory.

A trajectory is held until it is closed or the buffer is full; then its changed steps are written
and let go. Writing the same again changes nothing, and what came back of an action is never taken
back by an older copy of a file that does not have it yet.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

from rwml.errors import StoreUnavailableError
from rwml.ingest.results import ToolResults
from rwml.preparation import Preparation
from rwml.records import HeaderRecord, Record, StepRecord
from rwml.redaction import Redaction
from rwml.schema import Message, Trajectory
from rwml.store import Store
from rwml.store.batches import Batch

BUFFER_CHARS = 8 * 2**20
"""Characters of trajectories that are held before the oldest are written (ours)."""
BATCH_RECORDS = 1_000
"""Records written in one transaction, about (ours)."""
BATCH_CHARS = 4 * 2**20
"""Characters of these, about (ours)."""
_STEP_CHARS = 2_000
"""What a step takes beside its texts (ours)."""


@dataclass(eq=False)
class _Open:
    """A trajectory that may still grow; `steps` are those that are to be written."""

    header: Trajectory
    steps: dict[int, StepRecord] = field(default_factory=dict)
    chars: int = 0
    length: int = 0
    pending: set[int] = field(default_factory=set)


class Writer:
    """Collects records of trajectories and writes them.

    Args:
        store: where they go.
        key: of the store.
        results: completes steps that nothing else completed.
        lost: called with a reason for each record that could not be redacted or written.

    Attributes:
        trajectories: how many there were.
        steps: how many steps they have.
        pending: how many steps wait for their observation.
    """

    def __init__(
        self, store: Store, *, key: bytes, results: ToolResults, lost: Callable[[str], object]
    ) -> None:
        self._store = store
        self._preparation = _preparation(store, key)
        self._results = results
        self._lost = lost
        self._open: dict[str, _Open] = {}
        self._buffered: OrderedDict[str, _Open] = OrderedDict()
        self._chars = 0
        self._batch = Batch()
        self._batch_chars = 0
        self._is_empty = not store.counts().trajectories
        self.trajectories = self.steps = self.pending = 0

    def take(self, record: Record) -> None:
        """Takes a record that the assembler made."""
        if isinstance(record, HeaderRecord):
            header = record.trajectory
            found = self._open.get(header.id)
            if found is None:
                found = self._open[header.id] = _Open(header)
                self.trajectories += 1
            found.header = header
            self._grow(found, sum(map(_chars, header.initial)))
            return
        found = self._open[record.trajectory_id]
        step = record.step
        found.steps[step.index] = record
        found.length = max(found.length, step.index + 1)
        self._grow(found, _STEP_CHARS + sum(map(_chars, (step.action, *step.observation))))

    def add(self, trajectory: Trajectory) -> None:
        """Takes a whole trajectory, which will not grow."""
        self.take(HeaderRecord(trajectory))
        for step in trajectory.steps:
            self.take(StepRecord(trajectory.id, step))
        self.close(trajectory.id)

    def close(self, name: str) -> None:
        """A trajectory will not grow any more."""
        found = self._open.pop(name, None)
        if found is not None:
            self._put(found)
            self.steps += found.length
            self.pending += len(found.pending)

    def finish(self) -> None:
        """Writes all that is left."""
        for name in list(self._open):
            self.close(name)
        self._write()

    def _grow(self, found: _Open, chars: int) -> None:
        found.chars += chars
        self._chars += chars
        self._buffered[found.header.id] = found
        self._buffered.move_to_end(found.header.id)
        while self._chars > BUFFER_CHARS:
            self._put(next(iter(self._buffered.values())))

    def _put(self, found: _Open) -> None:
        """Puts what has changed of a trajectory into the batch."""
        name = found.header.id
        if self._buffered.pop(name, None) is None:
            return
        self._chars -= found.chars
        self._batch_chars += found.chars
        changed = [found.steps[index] for index in sorted(found.steps)]
        found.chars, found.steps = 0, {}
        # Without what it continues: a file that is imported again would find it continued already.
        self._prepare(lambda: self._preparation.add_header(HeaderRecord(found.header), self._batch))
        better = self._known_better(name, changed)
        for record in changed:
            index, full = record.step.index, self._completed(record)
            is_pending = full.step.status == "pending" and index not in better
            (found.pending.add if is_pending else found.pending.discard)(index)
            if index not in better:
                self._prepare(lambda full=full: self._preparation.add_step(full, self._batch))
        if len(self._batch) > BATCH_RECORDS or self._batch_chars > BATCH_CHARS:
            self._write()

    def _completed(self, record: StepRecord) -> StepRecord:
        step = self._results.complete(record.step)
        return record if step is record.step else record._replace(step=step)

    def _known_better(self, name: str, records: list[StepRecord]) -> set[int]:
        """Steps that wait here for what comes back, while the store has it: from a longer file."""
        waiting = {r.step.index for r in records if r.step.status == "pending"}
        if self._is_empty or not waiting:
            return set()
        known = next(self._store.trajectories(id=name), None)
        steps = () if known is None else known.steps
        return {step.index for step in steps if step.status != "pending"} & waiting

    def _prepare(self, add: Callable[[], object]) -> None:
        try:
            add()
        except Exception as error:  # noqa: BLE001 - fails closed, and one record stops no import
            self._lost(f"could not be redacted ({type(error).__name__})")

    def _write(self) -> None:
        batch, self._batch, self._batch_chars = self._batch, Batch(), 0
        if not len(batch):
            return
        try:
            self._store.write_batch(batch)
        except StoreUnavailableError:
            raise
        except (ValueError, OverflowError):
            for single in batch.singles():
                try:
                    self._store.write_batch(single)
                except (ValueError, OverflowError) as error:
                    self._lost(f"could not be written ({type(error).__name__})")


def _preparation(store: Store, key: bytes) -> Preparation:
    """Redacts, and makes rows of records."""
    return Preparation(store=store, key=key, redact=Redaction(), capture=None)


def _chars(message: Message) -> int:
    """Characters of a message, roughly."""
    values = [value for call in message.tool_calls for value in call.arguments.values()]
    texts = [message.content, message.reasoning, *(c.raw_arguments for c in message.tool_calls)]
    inside = sum(len(value) if isinstance(value, str) else 100 for value in values)
    return inside + sum(len(text) for text in texts if text)
