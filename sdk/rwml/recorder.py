"""Recording that never blocks and never breaks the agent it watches.

Values are turned into frozen models when the call is made (the value stored is the value then),
put on a bounded queue, and written by one daemon thread in batches. What cannot be taken, redacted
or written is counted in `Recorder.stats`; nothing is raised into the agent, except under pytest,
where a swallowed error would hide a bug. After a fork the child has a queue, counters and a writer
of its own, and nothing of what waited in its parent.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import queue
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from pydantic import JsonValue

from rwml import forking
from rwml.errors import StoreUnavailableError
from rwml.outer_calls import OuterCalls
from rwml.redaction import Redactor, describe, redact_id, redact_model, redact_secrets
from rwml.schema import (
    Fingerprint,
    Step,
    Tool,
    Trajectory,
)
from rwml.store import Store, open_store
from rwml.trajectory_recorder import MessageLike, TrajectoryRecorder

logger = logging.getLogger("rwml")

QUEUE_RECORDS = 10_000
"""Records that may wait for the writer; more are counted as dropped (ours)."""
BATCH_RECORDS = 256
"""Records written in one transaction at most (ours)."""
CLOSE_TIMEOUT_S = 5.0
"""How long `close` and the exit of the process wait for the writer (ours)."""


@dataclass(frozen=True)
class _Header:
    """A trajectory without its steps; `length` says how many steps it has, if that is all."""

    trajectory: Trajectory
    length: int | None


_Record = _Header | tuple[str, Step]


@dataclass(frozen=True)
class RecorderStats:
    """What a recorder did with what it was given: accepted = written + failed + waiting.

    Attributes:
        accepted: records put on the queue (a trajectory's header and each step are one each).
        written: records that are durable in the store.
        failed: accepted records that could not be redacted or written.
        dropped: records that were not taken, as the queue was full or the recorder closed.
        errors: calls that raised inside the recorder and were swallowed.
    """

    accepted: int = 0
    written: int = 0
    failed: int = 0
    dropped: int = 0
    errors: int = 0


class Recorder:
    """Records trajectories into a store.

    Args:
        store: a store, or the URL of one (see `open_store`).
        redact: applied to every string before it is written; what stands behind a name such as
            ``password`` is hidden as well (see `redact_model`). None stores all as it is.
        queue_records: bound of the queue, in records.

    Attributes:
        outer_calls: model calls that an integration sees, for those further in.

    Raises:
        StoreError: the store cannot be opened.
    """

    def __init__(
        self,
        *,
        store: str | Store,
        redact: Redactor | None = redact_secrets,
        queue_records: int = QUEUE_RECORDS,
    ) -> None:
        self._store = open_store(store) if isinstance(store, str) else store
        self._owns_store = isinstance(store, str)
        self._redact = redact
        self._queue_records = queue_records
        self._closed = False
        self._start()
        atexit.register(self.close)
        forking.register(self, child=Recorder._in_child)

    @property
    def stats(self) -> RecorderStats:
        """Counters so far."""
        with self._lock:
            return self._stats

    def trajectory(
        self,
        *,
        id: str | None = None,
        source: str,
        task_id: str | None = None,
        split: str | None = None,
        messages: Iterable[MessageLike] = (),
        tools: Iterable[Tool | Mapping[str, Any]] = (),
        fingerprint: Fingerprint | None = None,
        metadata: Mapping[str, JsonValue] | None = None,
    ) -> TrajectoryRecorder:
        """Starts a trajectory; use it as a context manager, act and observe inside.

        Args:
            id: recording an id again updates it; None for a new random one.
            source: what is recorded (``langgraph``, ``tau2:retail``, your own name).
            messages: what the agent saw before its first action.
            tools: the tools it had.
        """
        return TrajectoryRecorder(
            recorder=self,
            fields={
                **({"id": id} if id is not None else {}),
                "source": source,
                "task_id": task_id,
                "split": split,
                "fingerprint": fingerprint or Fingerprint(),
                "metadata": dict(metadata or {}),
            },
            messages=messages,
            tools=tools,
        )

    def record(self, trajectory: Trajectory) -> None:
        """Queues one whole trajectory; it replaces an earlier recording of the same id."""
        self.record_header(trajectory, length=len(trajectory.steps))
        for step in trajectory.steps:
            self._put((trajectory.id, step))

    def record_header(self, trajectory: Trajectory, *, length: int | None = None) -> None:
        """Queues a trajectory without its steps.

        Args:
            trajectory: its steps are not looked at.
            length: how many steps it has now, if that is all: what an earlier recording of the
                id had beyond that is removed. None leaves steps as they are.
        """
        self._put(_Header(trajectory.model_copy(update={"steps": ()}), length=length))

    def record_step(self, trajectory_id: str, step: Step) -> None:
        """Queues one step; the same index and attempt again replaces it."""
        self._put((trajectory_id, step))

    def flush(self, timeout_s: float = 5.0) -> bool:
        """Waits until all that was accepted so far is written or counted as failed.

        Returns:
            True when everything accepted is durable; False when time ran out or a record failed.
        """
        deadline = time.monotonic() + timeout_s
        with self._queue.all_tasks_done:
            while self._queue.unfinished_tasks:
                left = deadline - time.monotonic()
                if left <= 0 or not self._writer.is_alive():
                    return False
                self._queue.all_tasks_done.wait(left)
        return self.stats.failed == 0

    def close(self) -> None:
        """Writes what is queued (for at most `CLOSE_TIMEOUT_S`) and stops the writer.

        It raises nothing: it also runs when the host program ends.
        """
        try:
            self._close()
        except Exception as error:  # noqa: BLE001 - see above
            logger.warning("rwml: the recorder could not be closed: %s", describe(error))

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextlib.contextmanager
    def guard(self) -> Iterator[None]:
        """Swallows and counts what goes wrong inside, so that the agent never sees it.

        Errors are re-raised under pytest. KeyboardInterrupt, cancellation and the like pass.
        """
        try:
            yield
        except Exception as error:
            self._count(errors=1)
            if "PYTEST_CURRENT_TEST" in os.environ:
                raise
            self._warn_once("recording failed: %s", describe(error))

    def _start(self) -> None:
        self.outer_calls = OuterCalls()
        self._queue: queue.Queue[_Record | None] = queue.Queue(maxsize=self._queue_records)
        self._stats = RecorderStats()
        self._lock = threading.Lock()
        self._warned = False
        self._writer = threading.Thread(target=self._write_loop, name="rwml-writer", daemon=True)
        if not self._closed:
            self._writer.start()

    def _in_child(self) -> None:
        self._start()
        forking.close_at_exit(self, self.close)

    def _close(self) -> None:
        with self._lock:
            if self._closed:
                return
            self._closed = True
        atexit.unregister(self.close)
        deadline = time.monotonic() + CLOSE_TIMEOUT_S
        with contextlib.suppress(queue.Full):
            self._queue.put(None, timeout=CLOSE_TIMEOUT_S)
        self._writer.join(max(0.0, deadline - time.monotonic()))
        has_ended = not self._writer.is_alive()
        if has_ended:
            self._drop_rest()
        stats = self.stats
        waiting = stats.accepted - stats.written - stats.failed
        if stats.failed or stats.dropped or waiting:
            logger.warning(
                "rwml: %d records failed, %d were dropped and %d are not written yet",
                stats.failed,
                stats.dropped,
                waiting,
            )
        if self._owns_store and has_ended:
            self._store.close()

    def _drop_rest(self) -> None:
        """What is left when the writer has ended does not wait: nobody will write it."""
        with contextlib.suppress(queue.Empty):
            while True:
                is_record = self._queue.get_nowait() is not None
                self._queue.task_done()
                self._count(accepted=-is_record, dropped=is_record)

    def _put(self, record: _Record) -> None:
        with self._lock:  # in one step: `close` must not get between, its sentinel is the last
            closed = self._closed
            try:
                if not closed:
                    self._queue.put_nowait(record)
                taken = not closed
            except queue.Full:
                taken = False
            self._add(accepted=taken, dropped=not taken)
        if not taken and not closed:
            self._warn_once("the recording queue is full: records are dropped and counted")

    def _count(self, **more: int) -> None:
        with self._lock:
            self._add(**more)

    def _add(self, **more: int) -> None:
        now = {name: getattr(self._stats, name) + n for name, n in more.items()}
        self._stats = replace(self._stats, **now)

    def _warn_once(self, text: str, *arguments: object) -> None:
        if not self._warned:
            self._warned = True
            logger.warning("rwml: " + text, *arguments)

    def _write_loop(self) -> None:
        while True:
            batch = [self._queue.get()]
            with contextlib.suppress(queue.Empty):
                while len(batch) < BATCH_RECORDS:
                    batch.append(self._queue.get_nowait())
            self._write_batch([record for record in batch if record is not None])
            for _ in batch:
                self._queue.task_done()
            if None in batch:
                return

    def _write_batch(self, batch: list[_Record]) -> None:
        pending = _Batch()
        for record in batch:
            try:
                if isinstance(record, _Header):
                    name = redact_id(record.trajectory.id, self._redact)
                    clean = redact_model(record.trajectory, self._redact)
                    if record.length is not None and pending.has_steps_of(name):
                        self._store_batch(pending)  # what came before must not survive the cut
                        pending = _Batch()
                    pending.add_header(clean.model_copy(update={"id": name}), record.length)
                else:
                    name = redact_id(record[0], self._redact)
                    pending.steps.append((name, redact_model(record[1], self._redact)))
            except Exception as error:  # noqa: BLE001 - fails closed: not redacted, not written
                self._count(failed=1)
                self._warn_once("a record could not be redacted: %s", type(error).__name__)
        if len(pending):  # the sentinel alone is no reason to wait for the store
            self._store_batch(pending)

    def _store_batch(self, batch: _Batch) -> None:
        try:
            self._store.write(
                headers=batch.headers, lengths=batch.lengths, steps_by_trajectory=batch.steps
            )
        except Exception as error:  # noqa: BLE001 - whatever it is, the writer must live on
            if not isinstance(error, StoreUnavailableError) and len(batch) > 1:
                for single in batch.singles():  # one record cannot be stored: the others can
                    self._store_batch(single)
                return
            self._count(failed=len(batch))
            self._warn_once("a record could not be written: %s", describe(error))
        else:
            self._count(written=len(batch))


@dataclass
class _Batch:
    """Redacted records on their way into one transaction."""

    headers: list[Trajectory] = field(default_factory=list)
    lengths: dict[str, int] = field(default_factory=dict)
    steps: list[tuple[str, Step]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.headers) + len(self.steps)

    def has_steps_of(self, trajectory_id: str) -> bool:
        return any(owner == trajectory_id for owner, _ in self.steps)

    def add_header(self, header: Trajectory, length: int | None) -> None:
        self.headers.append(header)
        if length is not None:
            self.lengths[header.id] = length

    def singles(self) -> Iterator[_Batch]:
        for header in self.headers:
            cut = {header.id: self.lengths[header.id]} if header.id in self.lengths else {}
            yield _Batch(headers=[header], lengths=cut)
        for step in self.steps:
            yield _Batch(steps=[step])
