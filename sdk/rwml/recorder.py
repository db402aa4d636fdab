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
import secrets
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import JsonValue

from rwml import forking
from rwml.access import StoreAccess
from rwml.assemble import Hasher
from rwml.capture import Capture
from rwml.delivery import Delivery
from rwml.errors import UsageError
from rwml.outer_calls import OuterCalls
from rwml.preparation import Preparation
from rwml.records import HeaderRecord, Record, StepRecord
from rwml.redaction import Redaction, Redactor, describe
from rwml.retention import Retention, Sweeper
from rwml.schema import Fingerprint, Step, Tool, Trajectory
from rwml.settings import is_disabled
from rwml.spool import Spool, spool_folder
from rwml.store import Store, open_store
from rwml.trajectory_recorder import MessageLike, TrajectoryRecorder
from rwml.waiting import WaitingRecords
from rwml.writer import BATCH_RECORDS, Counters, RecorderStats, Writer

logger = logging.getLogger("rwml")

QUEUE_RECORDS = 10_000
"""Records that may wait for the writer; more are counted as dropped (ours)."""
QUEUE_BYTES = 32 << 20
"""Bytes that they may keep alive, roughly (ours)."""
RECORD_BYTES = 2_000
"""What a record takes in memory besides its texts, roughly (ours)."""
POLL_S = 0.01
"""How often `flush` looks whether the writer has caught up (ours)."""
CLOSE_TIMEOUT_S = 5.0
"""How long `close` and the exit of the process wait for the writer (ours)."""
DEFAULT_REDACTION = Redaction()
"""Secrets and personal data; of benchmarks secrets only."""


class Recorder:
    """Records trajectories into a store.

    Args:
        store: a store, or the URL of one (see `open_store`).
        redact: what must not be stored, and what stands in its place (see `rwml.redaction`); or a
            function that is applied to every string. None stores all as it is.
        capture: what is not recorded at all; None records everything.
        retention: how long, and how much of it, the store keeps; None keeps everything.
        spool: folder in which records wait on disk while the store is away, which several stores
            may share; None for the usual one.
        queue_records: bound of the queue, in records.
        queue_bytes: bound of the queue, in bytes that the records keep alive, roughly.

    Attributes:
        outer_calls: model calls that an integration sees, for those further in.

    Raises:
        StoreError: the store cannot be opened. One that is only out of reach is no error: what is
            recorded waits on this machine.
        UsageError: an environment variable cannot be used.
    """

    def __init__(
        self,
        *,
        store: str | Store,
        redact: Redactor | Redaction | None = DEFAULT_REDACTION,
        capture: Capture | None = None,
        retention: Retention | None = None,
        spool: Path | None = None,
        queue_records: int = QUEUE_RECORDS,
        queue_bytes: int = QUEUE_BYTES,
    ) -> None:
        self._is_disabled = is_disabled()
        self._closed = self._is_disabled
        self._counters = Counters()
        self.outer_calls = OuterCalls()
        if self._is_disabled:
            self.hasher = Hasher(secrets.token_bytes(32))
            return
        self._store = open_store(store, eager=False) if isinstance(store, str) else store
        self._owns_store = isinstance(store, str)
        self._redact = redact
        self._capture = capture
        self._retention = retention
        self._spool_folder = spool_folder(self._store, spool)
        self._bounds = (queue_records, queue_bytes)
        self.hasher = Hasher(self._store.key)
        self._start()
        atexit.register(self.close)
        forking.register(self, child=Recorder._in_child)

    @property
    def stats(self) -> RecorderStats:
        """Counters so far."""
        return self._counters.stats

    @property
    def store(self) -> Store:
        """The store that is recorded into.

        Raises:
            UsageError: recording is switched off, so that none was opened.
        """
        if self._is_disabled:
            raise UsageError("recording is switched off by RWML_DISABLED: there is no store")
        return self._store

    @property
    def takes_nothing(self) -> bool:
        """Whether it is closed or switched off: there is no need to bring anything."""
        return self._closed

    @property
    def is_in_use_here(self) -> bool:
        """Whether this thread is in the middle of recording, as a signal handler may find it."""
        return self._counters.is_held_here

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
            id=id,
            source=source,
            task_id=task_id,
            split=split,
            fingerprint=fingerprint,
            metadata=metadata,
            messages=messages,
            tools=tools,
        )

    def allows(self, header: Trajectory) -> bool:
        """Whether it records what is of this source and tenant: nobody opted out of it.

        What is recorded asks this by itself. It is for what is derived from a trajectory and
        recorded under another source.
        """
        if self._is_disabled:
            return False
        return self._capture is None or self._capture.allows(header)

    def record(self, trajectory: Trajectory) -> None:
        """Queues one whole trajectory; it replaces an earlier recording of the same id."""
        self.record_header(trajectory, length=len(trajectory.steps))
        for step in trajectory.steps:
            self.put(StepRecord(trajectory.id, step))

    def record_header(self, trajectory: Trajectory, *, length: int | None = None) -> None:
        """Queues a trajectory without its steps.

        Args:
            trajectory: its steps are not looked at.
            length: how many steps it has now, if that is all: what an earlier recording of the
                id had beyond that is removed. None leaves steps as they are.
        """
        self.put(HeaderRecord(trajectory, length))

    def record_step(self, trajectory_id: str, step: Step) -> None:
        """Queues one step; the same index and attempt again replaces it."""
        self.put(StepRecord(trajectory_id, step))

    def put(self, record: Record) -> None:
        """Queues a record."""
        if self._closed:
            self._counters.add(dropped=not self._is_disabled)
            return
        counters, size = self._counters, _size(record)
        with counters.lock:
            taken = self._queue.put(record, size)
            counters.accepted += taken
        if not taken:
            self._refuse()

    def put_deferred(self, record: Record) -> None:
        """In a deferred call: a record that is written in its place, and before `flush` returns.

        Not for code that may run anywhere, such as finalisers: they would get ahead of the queue.
        """
        if self._is_disabled or not self._writer.is_here:
            self.put(record)
        else:
            self._counters.add(accepted=1)
            self._writer.prepare(record)

    def defer(self, function: Callable[..., object], *arguments: Any, size: int = 0) -> None:
        """Queues a call, made in the writer's thread in turn with all else, errors swallowed.

        Args:
            function: it may `put_deferred` records; it must not wait for anything.
            arguments: nothing that the agent will change.
            size: bytes that they keep alive, roughly.
        """
        if self._closed:
            self._counters.add(dropped=not self._is_disabled)
        elif not self._queue.put((function, arguments), RECORD_BYTES + size):
            self._refuse()

    def flush(self, timeout_s: float = 5.0) -> bool:
        """Waits until all that was accepted so far is in the store or counted as failed.

        Returns:
            True when everything accepted is in the store; False when time ran out, records wait
            for a store that is away, or a record failed.
        """
        if self._is_disabled:
            return True
        deadline = time.monotonic() + timeout_s
        done = self._queue.wait_done(timeout_s)
        self._raise_kept()
        while done and self._counters.spooled and time.monotonic() < deadline:
            time.sleep(POLL_S)  # the store was busy, or is away: the writer catches up
        stats = self.stats
        return done and not stats.failed and not stats.spooled and not stats.waiting

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

    def guard(self) -> contextlib.AbstractContextManager[None]:
        """Swallows and counts what goes wrong inside, so that the agent never sees it.

        Errors are re-raised under pytest. KeyboardInterrupt, cancellation and the like pass.
        """
        return self._counters.guard()

    def _start(self) -> None:
        self.outer_calls = OuterCalls()
        self._counters = Counters()
        records, size = self._bounds
        self._queue = WaitingRecords(
            items=records, size=size, batch=BATCH_RECORDS, lock=self._counters.lock
        )
        access = StoreAccess(self._store)
        self._writer = Writer(
            counters=self._counters,
            queue=self._queue,
            preparation=Preparation(
                store=access,
                key=self._store.key,
                redact=self._redact,
                capture=self._capture,
            ),
            delivery=Delivery(
                store=access,
                spool=Spool(self._spool_folder),
                count=self._counters.add,
                warn=self._counters.warn,
            ),
        )
        self._sweeper = None
        if not self._closed:
            self._writer.start()
            if self._retention is not None:
                self._sweeper = Sweeper(retention=self._retention, store=self._store)

    def _in_child(self) -> None:
        self._start()
        forking.close_at_exit(self, self.close)

    def _close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._queue.close()
        atexit.unregister(self.close)
        deadline = time.monotonic() + CLOSE_TIMEOUT_S
        has_ended = self._writer.stop(CLOSE_TIMEOUT_S)
        if self._sweeper is not None:
            has_ended &= self._sweeper.stop(max(0.1, deadline - time.monotonic()))
        if has_ended:  # what came in the meantime does not wait: nobody will write it
            left = self._queue.drain()
            records = sum(isinstance(item, HeaderRecord | StepRecord) for item in left)
            self._counters.add(accepted=-records, dropped=len(left))
        stats = self.stats
        if stats.failed or stats.dropped or stats.waiting or stats.spooled:
            logger.warning(
                "rwml: %d records failed, %d were dropped, %d wait on this machine's disk and %d "
                "are not written yet",
                stats.failed,
                stats.dropped,
                stats.spooled,
                stats.waiting,
            )
        if self._owns_store and has_ended:
            self._store.close()

    def _refuse(self) -> None:
        self._counters.add(dropped=1)
        if not self._closed:
            self._counters.warn("the recording queue is full: records are dropped and counted")

    def _raise_kept(self) -> None:
        """What a deferred call raised, under pytest only."""
        error, self._counters.error = self._counters.error, None
        if error is not None and "PYTEST_CURRENT_TEST" in os.environ:
            raise error


def _size(record: Record) -> int:
    """Bytes that a record keeps alive, roughly: its texts, and as much again for the rest."""
    size = RECORD_BYTES
    if isinstance(record, HeaderRecord):
        for message in record.trajectory.initial:
            size += RECORD_BYTES + len(message.content or "")
    else:
        size += len(record.step.action.content or "")
        for message in record.step.observation:
            size += len(message.content or "")
    return size
