"""From records to rows: what is stored is decided here, in the writer's thread, before any disk.

Sampling, opt-outs and redaction apply to every record; a new trajectory that goes on with one that
another process recorded is put there. Whatever cannot be prepared raises, so that it is counted and
not written: redaction fails closed.
"""

from __future__ import annotations

import contextlib
import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from rwml.capture import Capture
from rwml.errors import StoreError
from rwml.records import HeaderRecord, StepRecord
from rwml.redaction import Redaction, RedactionSession, Redactor, redact_id, redact_model
from rwml.schema import Step, Trajectory
from rwml.serialisation import LARGE_CHARS, dump, without_large_texts
from rwml.store.batches import Batch, header_row, step_row
from rwml.store.keys import key_check
from rwml.store.lookups import Pending
from rwml.store.rows import as_key, load

KEPT_TRAJECTORIES = 10_000
"""Trajectories whose pseudonyms stay in memory; those of others are read again (ours)."""
KEPT_CONTINUED = 100_000
"""Trajectories that go on with earlier ones, or are not recorded, by id (ours)."""
TOUCH_S = 60.0
"""A trajectory's row says when it was last added to, to so many seconds (ours)."""

_Model = TypeVar("_Model", Step, Trajectory)


@dataclass
class _Open:
    """A trajectory that is being recorded.

    Attributes:
        id: as it is stored.
        key: of its rows.
        session: makes its pseudonyms; None for redactors that make none.
        offset: added to the index of each step: those before are an earlier recording's.
        touched: when its row was written last.
    """

    id: str
    key: str
    session: RedactionSession | None
    offset: int = 0
    touched: float = 0.0


class KnownStore(Protocol):
    """What is asked of a store. Each raises `StoreError` where it cannot be told."""

    def claim_pending(self, digest: bytes | None, tail: bytes | None) -> Pending | None:
        """See `Store.claim_pending`."""

    def header(self, key: str) -> Trajectory | None:
        """See `Store.header`."""

    def pseudonyms(self, key: str) -> dict[bytes, str]:
        """See `Store.pseudonyms`."""
        ...


class Preparation:
    """Makes rows of records. Only for the writer's thread.

    Args:
        store: asked for what other processes recorded, and for pseudonyms.
        key: of the store, for the digests of pseudonyms.
        redact: None stores all as it is.
        capture: what is left out; None takes everything.
    """

    def __init__(
        self,
        *,
        store: KnownStore,
        key: bytes,
        redact: Redactor | Redaction | None,
        capture: Capture | None,
    ) -> None:
        self._store = store
        self._key = key
        self._key_check = key_check(key)
        self._redact = redact
        self._capture = capture
        self._open: OrderedDict[str, _Open] = OrderedDict()
        self._continued: OrderedDict[str, tuple[str, int]] = OrderedDict()
        self._skipped: OrderedDict[str, None] = OrderedDict()
        self._sessions: OrderedDict[str, RedactionSession] = OrderedDict()

    def add_header(self, record: HeaderRecord, batch: Batch) -> int:
        """Adds a trajectory; returns how many rows it made, 0 where it is not to be recorded.

        Raises:
            Exception: it cannot be redacted or stored.
        """
        trajectory, name = record.trajectory, record.trajectory.id
        before = len(batch)
        if trajectory.steps:
            trajectory = trajectory.model_copy(update={"steps": ()})
        if self._capture is not None:
            if not self._takes(record, batch):
                _remember(self._skipped, name, None, KEPT_CONTINUED)
                return 0
            trajectory = self._capture.hide_header(trajectory)
        is_known = name in self._open or name in self._continued
        try:
            self._add_header(record, trajectory, batch)
        except Exception:
            if not is_known:  # its steps would belong to nobody
                _remember(self._skipped, name, None, KEPT_CONTINUED)
            raise
        return len(batch) - before

    def _takes(self, record: HeaderRecord, batch: Batch) -> bool:
        """Whether a trajectory is recorded: what goes on with a recorded one is, sampled or not."""
        capture, header = self._capture, record.trajectory
        if capture is None or header.id in self._continued:
            return True
        if not capture.allows(header):
            return False
        if capture.samples(header):
            return True
        if header.id not in self._skipped:
            self._continue(record, batch)
        return header.id in self._continued

    def _add_header(self, record: HeaderRecord, trajectory: Trajectory, batch: Batch) -> None:
        name = trajectory.id
        self._continue(record, batch)
        opened = self._opened(name, trajectory)
        clean, body = self._clean(opened, trajectory)
        if clean.id != opened.id:  # redacted as a text among others; an id has its own way
            clean, body = dump(clean.model_copy(update={"id": opened.id}))
        if name in self._continued:
            batch.merges.append(header_row(clean, body))
        else:
            batch.headers.append(header_row(clean, body))
            if record.length is not None:
                batch.cuts[opened.key] = record.length
        self._add_names(opened, batch)
        opened.touched = time.time()
        self._skipped.pop(name, None)

    def add_step(self, record: StepRecord, batch: Batch) -> int:
        """Adds a step; returns 1, or 0 where its trajectory is not recorded.

        Raises:
            Exception: it cannot be redacted or stored.
        """
        if record.trajectory_id in self._skipped:
            return 0
        if self._capture is not None and self._is_unknown(record.trajectory_id):
            _remember(self._skipped, record.trajectory_id, None, KEPT_CONTINUED)
            return 0
        opened = self._opened(record.trajectory_id, None)
        step = record.step
        if opened.offset:
            step = step.model_copy(update={"index": step.index + opened.offset})
        self._add(opened, step, batch, digest=record.digest, tail=record.tail)
        now = time.time()
        if now - opened.touched > TOUCH_S:
            opened.touched = batch.touched[opened.key] = now
        return 1

    def must_write_first(self, record: HeaderRecord, batch: Batch) -> bool:
        """Whether a batch holds steps of a trajectory that is now recorded anew."""
        if record.length is None:
            return False
        opened = self._opened(record.trajectory.id, record.trajectory)
        return batch.has_steps_of(opened.key)

    def _add(self, opened: _Open, step: Step, batch: Batch, **digests: bytes | None) -> None:
        if self._capture is not None:
            step = self._capture.hide(step)
        clean, body = self._clean(opened, step)
        batch.steps.append(step_row(opened.key, clean, body, **digests))
        self._add_names(opened, batch)

    def _clean(self, opened: _Open, record: _Model) -> tuple[_Model, str]:
        if self._redact is not None and not isinstance(self._redact, Redaction):
            return dump(redact_model(record, self._redact))
        record, body = dump(record)
        if opened.session is None:
            return record, body
        clean = opened.session.json(body)
        if clean is body:
            return record, body
        if isinstance(record, Step) and len(clean) > LARGE_CHARS:
            # To parse it all stops all for 30 ms, and a row needs no long text.
            _, body = dump(without_large_texts(record))
            return type(record).model_validate_json(opened.session.json(body)), clean
        return type(record).model_validate_json(clean), clean

    def _is_unknown(self, name: str) -> bool:
        """Whether nothing says that a trajectory is recorded: perhaps it was sampled out."""
        if name in self._open or name in self._continued:
            return False
        with contextlib.suppress(StoreError):
            return self._store.header(as_key(self._stored_id(name))) is None
        return False

    def _add_names(self, opened: _Open, batch: Batch) -> None:
        if opened.session is not None:
            key, check = opened.key, self._key_check
            used = opened.session.used_names()
            batch.names += [(key, digest, name, check) for digest, name in used.items()]

    def _opened(self, name: str, trajectory: Trajectory | None) -> _Open:
        """What is known of a trajectory; `trajectory` where its header is at hand."""
        opened = self._open.get(name)
        if opened is None:
            key, offset = self._continued.get(name, (None, 0))
            stored = self._stored_id(name) if key is None else key
            key = as_key(stored) if key is None else key
            opened = _Open(stored, key, self._session(key, trajectory), offset)
            _remember(self._open, name, opened, KEPT_TRAJECTORIES)
        else:
            self._open.move_to_end(name)
        return opened

    def _session(self, key: str, trajectory: Trajectory | None) -> RedactionSession | None:
        if not isinstance(self._redact, Redaction):
            return None
        session = self._sessions.get(key)  # of the trajectory that this one goes on with, perhaps
        if session is not None:
            return session
        if trajectory is None:
            with contextlib.suppress(StoreError):
                trajectory = self._store.header(key)
        policy = self._redact if trajectory is None else self._redact.for_source(trajectory.source)
        session = policy.session(key=self._key, known=lambda: self._known_names(key))
        _remember(self._sessions, key, session, KEPT_TRAJECTORIES)
        return session

    def _known_names(self, key: str) -> dict[bytes, str]:
        try:
            return self._store.pseudonyms(key)
        except StoreError:  # it is away: names begin anew
            return {}

    def _stored_id(self, name: str) -> str:
        if isinstance(self._redact, Redaction):
            return self._redact.session(key=self._key).id(name)
        return redact_id(name, self._redact)

    def _continue(self, record: HeaderRecord, batch: Batch) -> None:
        """Finds the action that a new trajectory answers, and gives it its observation."""
        name, continues = record.trajectory.id, record.continues
        if continues is None or name in self._open or name in self._continued:
            return
        pending = _in_batch(batch, continues.digest)
        if pending is None:
            with contextlib.suppress(StoreError):
                pending = self._store.claim_pending(continues.digest, continues.tail)
        if pending is None or _is_answered(batch, pending):
            return
        place = (pending.key, pending.step.index + 1)
        _remember(self._continued, name, place, KEPT_CONTINUED)
        answered = pending.step.model_copy(
            update={
                "observation": continues.observation,
                "kind": "tool" if any(m.role == "tool" for m in continues.observation) else "user",
                "status": "error" if continues.failed else "ok",
            }
        )
        self._add(self._opened(name, None), answered, batch)


def _in_batch(batch: Batch, digest: bytes | None) -> Pending | None:
    latest = {row[:3]: row for row in batch.steps}
    found = [row for row in latest.values() if digest is not None and row.digest == digest]
    if len(found) != 1:
        return None
    row = found[0]
    return Pending(row.trajectory_id, load(Step, row.body, row.trajectory_id))


def _is_answered(batch: Batch, pending: Pending) -> bool:
    """Whether a batch that is not written yet has an answer to an action, or goes on after it."""
    place = pending.step.index
    return any(
        row.trajectory_id == pending.key
        and (row.step_index > place or (row.step_index == place and row.status != "pending"))
        for row in batch.steps
    )


def _remember(known: OrderedDict[str, Any], name: str, value: object, kept: int) -> None:
    known[name] = value
    known.move_to_end(name)
    while len(known) > kept:
        known.popitem(last=False)
