"""The one thread of a process that writes: takes records, prepares and delivers them.

Whatever goes wrong with a record is counted here and stays here. Work that an integration puts off
(reading a framework's messages, linking them) runs in this thread too, so that the agent's own
threads pay for no more than putting it on the queue.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from rwml.delivery import Delivery
from rwml.preparation import Preparation
from rwml.records import HeaderRecord, Record, StepRecord
from rwml.redaction import describe
from rwml.store.batches import Batch
from rwml.waiting import WaitingRecords

logger = logging.getLogger("rwml")

BATCH_RECORDS = 1024
"""Records written in one transaction at most (ours)."""


@dataclass(frozen=True)
class RecorderStats:
    """What a recorder did with what it was given.

    ``accepted = written + failed + skipped + spooled + waiting``, at any time.

    Attributes:
        accepted: records put on the queue (a trajectory's header and each step are one each), or
            taken over from the spool of a process that ended.
        written: records that are durable in the store.
        failed: accepted records that could not be redacted or stored.
        skipped: accepted records that sampling or an opt-out leaves out.
        spooled: records that are durable on this machine's disk, as the store is away.
        waiting: records in memory.
        dropped: records and events that were not taken, as the queue was full or closed.
        errors: calls that raised inside the recorder and were swallowed.
    """

    accepted: int = 0
    written: int = 0
    failed: int = 0
    skipped: int = 0
    spooled: int = 0
    dropped: int = 0
    errors: int = 0

    @property
    def waiting(self) -> int:
        """Records in memory."""
        return self.accepted - self.written - self.failed - self.skipped - self.spooled


class Counters:
    """The counters behind `RecorderStats`; safe to share between threads.

    Attributes:
        lock: held while one is changed; reentrant, as a signal handler may record in the middle.
        accepted: may be changed directly by who holds the lock, as may the others.
        error: the first error that was swallowed in a deferred call, under pytest.
    """

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.accepted = self.written = self.failed = self.skipped = self.spooled = 0
        self.dropped = self.errors = 0
        self._warned: set[str] = set()
        self.error: BaseException | None = None

    @property
    def stats(self) -> RecorderStats:
        """All of them at one moment."""
        with self.lock:
            return RecorderStats(
                accepted=self.accepted,
                written=self.written,
                failed=self.failed,
                skipped=self.skipped,
                spooled=self.spooled,
                dropped=self.dropped,
                errors=self.errors,
            )

    @property
    def is_held_here(self) -> bool:
        """Whether this thread holds the lock."""
        return self.lock._is_owned()  # type: ignore[attr-defined]  # as threading.Condition asks it

    def add(self, **more: int) -> None:
        """Adds to counters by name."""
        with self.lock:
            for name, number in more.items():
                setattr(self, name, getattr(self, name) + number)

    def warn(self, text: str, *arguments: object) -> None:
        """Logs each kind of trouble once."""
        if text not in self._warned:
            self._warned.add(text)
            logger.warning("rwml: " + text, *arguments)

    @contextlib.contextmanager
    def guard(self) -> Iterator[None]:
        """Swallows and counts errors; see `rwml.Recorder.guard`."""
        try:
            yield
        except Exception as error:
            self.add(errors=1)
            if "PYTEST_CURRENT_TEST" in os.environ:
                self.error = self.error or error
                raise
            self.warn("recording failed: %s", describe(error))


class Writer:
    """The writer of one recorder in one process.

    Args:
        counters: where everything is counted.
        queue: where records and deferred calls come from.
        preparation: makes rows of them.
        delivery: takes the rows.
    """

    def __init__(
        self,
        *,
        counters: Counters,
        queue: WaitingRecords,
        preparation: Preparation,
        delivery: Delivery,
    ) -> None:
        self._counters = counters
        self._queue = queue
        self._preparation = preparation
        self._delivery = delivery
        self._batch = Batch()
        self._is_closing = False
        self._thread = threading.Thread(target=self._run, name="rwml-writer", daemon=True)

    @property
    def is_alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    @property
    def is_here(self) -> bool:
        """Whether the caller is in the writer's thread."""
        return threading.get_ident() == self._thread.ident

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def stop(self, timeout_s: float) -> bool:
        """Lets the thread end when the queue is empty; returns whether it did in time."""
        self._is_closing = True
        self._queue.hurry()
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def prepare(self, record: Record) -> None:
        """Adds a record to the batch in work. Only in the writer's thread."""
        before = len(self._batch)
        try:
            if isinstance(record, HeaderRecord):
                if self._preparation.must_write_first(record, self._batch):
                    self._deliver()
                    before = 0
                rows = self._preparation.add_header(record, self._batch)
            else:
                rows = self._preparation.add_step(record, self._batch)
        except Exception as error:  # noqa: BLE001 - fails closed: not redacted, not written
            self._counters.add(failed=1, accepted=len(self._batch) - before)
            self._counters.warn("a record could not be prepared: %s", describe(error))
        else:
            if rows != 1:
                self._counters.add(accepted=max(0, rows - 1), skipped=not rows)
        if len(self._batch) >= BATCH_RECORDS:
            self._deliver()

    def _run(self) -> None:
        try:
            while True:
                if self._delivery.is_holding and not self._is_closing:
                    self._queue.pause(self._delivery.wait_s())
                    self._delivery.retry()
                    if self._delivery.is_holding:
                        continue
                taken = self._queue.take(0.0 if self._is_closing else self._delivery.wait_s())
                if taken:
                    self._work(taken)
                    self._queue.done(len(taken))
                if not self._is_closing or not len(self._queue):  # what is our own goes first
                    self._delivery.retry()
                if self._is_closing and not len(self._queue):
                    return
        finally:
            self._delivery.close()

    def _work(self, taken: list[Any]) -> None:
        for item in taken:
            if isinstance(item, HeaderRecord | StepRecord):
                self.prepare(item)
            else:
                function, arguments = item
                with contextlib.suppress(Exception), self._counters.guard():
                    function(*arguments)
        self._deliver()

    def _deliver(self) -> None:
        batch, self._batch = self._batch, Batch()
        if len(batch) or batch.touched:
            self._delivery.deliver(batch)
