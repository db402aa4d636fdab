"""Recording that never blocks and never breaks the agent it watches.

Values are turned into frozen models when the call is made (the value stored is the value then),
put on a bounded queue, and written by one daemon thread in batches. What cannot be taken, redacted
or written is counted in `Recorder.stats`; nothing is raised into the agent, except under pytest,
where a swallowed error would hide a bug.
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
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from types import TracebackType
from typing import Any

from pydantic import JsonValue

from rwml.errors import RwmlError
from rwml.redaction import Redactor, redact_model, redact_secrets
from rwml.schema import (
    Fingerprint,
    Kind,
    Message,
    Outcome,
    Provenance,
    Step,
    StepStatus,
    Tool,
    Trajectory,
    Usage,
)
from rwml.store import Store, open_store

logger = logging.getLogger("rwml")

QUEUE_RECORDS = 10_000
"""Records that may wait for the writer; more are counted as dropped (ours)."""
BATCH_RECORDS = 256
"""Records written in one transaction at most (ours)."""
CLOSE_TIMEOUT_S = 5.0
"""How long `close` and the exit of the process wait for the writer (ours)."""

MessageLike = Message | Mapping[str, Any]
_Record = Trajectory | tuple[str, Step]


@dataclass(frozen=True)
class RecorderStats:
    """What a recorder did with what it was given: accepted = written + failed + waiting.

    Attributes:
        accepted: records put on the queue (a trajectory's header and each step are one each).
        written: records that are durable in the store.
        failed: accepted records that could not be redacted or written.
        dropped: records refused because the queue was full or the recorder closed.
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
        redact: applied to every string before it is written; None stores texts as they are.
        queue_records: bound of the queue, in records.

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
        self._queue: queue.Queue[_Record | None] = queue.Queue(maxsize=queue_records)
        self._stats = RecorderStats()
        self._lock = threading.Lock()
        self._closed = False
        self._warned = False
        self._writer = threading.Thread(target=self._write_loop, name="rwml-writer", daemon=True)
        self._writer.start()
        atexit.register(self.close)

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
        """Queues one whole trajectory."""
        self._put(trajectory.model_copy(update={"steps": ()}))
        for step in trajectory.steps:
            self._put((trajectory.id, step))

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
        """Writes what is queued (for at most `CLOSE_TIMEOUT_S`) and stops the writer."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        atexit.unregister(self.close)
        with contextlib.suppress(queue.Full):
            self._queue.put(None, timeout=CLOSE_TIMEOUT_S)
        self._writer.join(CLOSE_TIMEOUT_S)
        stats = self.stats
        if stats.failed or stats.dropped:
            logger.warning(
                "rwml: %d records failed and %d were dropped", stats.failed, stats.dropped
            )
        if self._owns_store and not self._writer.is_alive():
            self._store.close()

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
            self._warn_once("recording failed: %s", error)

    def _put(self, record: _Record) -> None:
        with self._lock:
            if self._closed:
                self._stats = replace(self._stats, dropped=self._stats.dropped + 1)
                return
        try:
            self._queue.put_nowait(record)
        except queue.Full:
            self._count(dropped=1)
            self._warn_once("the recording queue is full: records are dropped and counted")
        else:
            self._count(accepted=1)

    def _count(self, **more: int) -> None:
        with self._lock:
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
        headers: list[Trajectory] = []
        steps: list[tuple[str, Step]] = []
        for record in batch:
            try:
                if isinstance(record, Trajectory):
                    headers.append(self._redacted(record))
                else:
                    steps.append((record[0], self._redacted(record[1])))
            except Exception as error:  # noqa: BLE001 - fails closed: not redacted, not written
                self._count(failed=1)
                self._warn_once("a record could not be redacted: %s", type(error).__name__)
        try:
            self._store.write(headers=headers, steps_by_trajectory=steps)
        except RwmlError as error:
            self._count(failed=len(headers) + len(steps))
            self._warn_once("%s", error)
        else:
            self._count(written=len(headers) + len(steps))

    def _redacted(self, model: Any) -> Any:
        return redact_model(model, self._redact) if self._redact else model


class TrajectoryRecorder:
    """One trajectory being recorded. Made by `Recorder.trajectory`; not for several threads."""

    def __init__(
        self,
        *,
        recorder: Recorder,
        fields: dict[str, Any],
        messages: Iterable[MessageLike],
        tools: Iterable[Tool | Mapping[str, Any]],
    ) -> None:
        self._recorder = recorder
        self._step: Step | None = None
        self._outcome = Outcome()
        self._header = Trajectory(source="unknown")
        with recorder.guard():
            self._header = Trajectory(
                **fields,
                initial=tuple(Message.from_openai(m) for m in messages),
                tools=tuple(t if isinstance(t, Tool) else Tool.from_openai(t) for t in tools),
                started_at=datetime.now(UTC),
            )

    @property
    def id(self) -> str:
        """The trajectory's id."""
        return self._header.id

    def act(
        self,
        message: MessageLike,
        *,
        model: str | None = None,
        usage: Usage | None = None,
        latency_s: float | None = None,
        provenance: Provenance | None = None,
        metadata: Mapping[str, JsonValue] | None = None,
    ) -> None:
        """Records an action; it is pending until `observe` says what came back.

        Args:
            message: the assistant message, as an OpenAI-style dict or a `Message`.
        """
        with self._recorder.guard():
            self._step = Step(
                index=0 if self._step is None else self._step.index + 1,
                action=Message.from_openai(message),
                started_at=datetime.now(UTC),
                model=model,
                usage=usage,
                latency_s=latency_s,
                provenance=provenance,
                metadata=dict(metadata or {}),
            )
            self._recorder.record_step(self.id, self._step)

    def observe(
        self, *messages: MessageLike, status: StepStatus = "ok", kind: Kind | None = None
    ) -> None:
        """Records what came back of the last action; called again, it adds to it.

        Before the first action, the messages become the trajectory's initial ones.

        Args:
            messages: tool results, a user's reply, or an environment's text.
            status: ``error`` where the answer is an error.
            kind: who answered; by default read off the roles (tool messages: ``tool``).
        """
        with self._recorder.guard():
            read = tuple(Message.from_openai(message) for message in messages)
            if self._step is None:
                initial = self._header.initial + read
                self._header = self._header.model_copy(update={"initial": initial})
                return
            if not read:
                return
            self._step = complete_step(self._step, read, status=status, kind=kind)
            self._recorder.record_step(self.id, self._step)

    def finish(self, outcome: Outcome) -> None:
        """Says how the trajectory ended; written when the context manager closes."""
        self._outcome = outcome

    def __enter__(self) -> TrajectoryRecorder:
        with self._recorder.guard():
            self._recorder.record(self._header)  # so that a killed process leaves no orphan steps
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with self._recorder.guard():
            self._recorder.record(self._header.model_copy(update={"outcome": self._outcome}))


def complete_step(
    step: Step,
    observation: tuple[Message, ...],
    *,
    status: StepStatus = "ok",
    kind: Kind | None = None,
) -> Step:
    """The step with `observation` added to what came back; an error stays an error."""
    merged = step.observation + observation
    roles = {message.role for message in merged}
    return step.model_copy(
        update={
            "observation": merged,
            "kind": kind or step.kind or ("tool" if "tool" in roles else "user"),
            "status": "error" if "error" in (status, step.status) else status,
        }
    )
