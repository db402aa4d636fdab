"""The SQL of retention: what is oldest, what it needs, and removing it bit by bit.

Whole trajectories go, those first that were not written for longest. Each step of the work is a
transaction of its own that looks again at what it relies on, so that several processes can do this
at once, beside others that write. Only rows are removed: `rwml.store.erasure` is what wipes bytes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC
from typing import TYPE_CHECKING, Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import REGCLASS
from sqlalchemy.engine import Connection

from rwml.schema import Step
from rwml.store.erasure import remove
from rwml.store.rows import Reading, load
from rwml.store.tables import pseudonyms, steps, trajectories

if TYPE_CHECKING:
    from rwml.store.database import Store

BATCH_TRAJECTORIES = 100
"""Trajectories removed in one transaction at most: others wait for it to end (ours)."""
BATCH_BYTES = 16 * 1024 * 1024
"""No more are added to a batch that has these bytes (ours)."""
GIVEN_BACK_PAGES = 500
"""Pages of a SQLite file given back in one transaction: 2 MB (ours)."""
SAMPLE_PAGES = 10_000
"""Pages of a PostgreSQL table that are read, at most, to estimate what it needs (ours)."""
ROW_BYTES = 200
"""What a row needs besides its body: header, other columns, index entries (ours, PostgreSQL)."""
PRUNING = 0x72776D70
"""Advisory lock of PostgreSQL under which one process removes at a time ("rwmp" in ASCII)."""

_SIZED = (trajectories, steps, pseudonyms)


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What may stay.

    Attributes:
        expired: seconds since the epoch: what was last written before goes; None for no limit.
        max_bytes: bytes that the data may need; beyond, the oldest goes. None for no limit.
        fresh: seconds since the epoch: what was written since then stays, as it may still be
            being recorded.
    """

    expired: float | None
    max_bytes: int | None
    fresh: float


@dataclass(frozen=True)
class Removed:
    """How much was removed, or would be: whole trajectories, their steps, their bytes."""

    trajectories: int = 0
    steps: int = 0
    bytes: int = 0

    def __add__(self, other: Removed) -> Removed:
        return Removed(
            self.trajectories + other.trajectories,
            self.steps + other.steps,
            self.bytes + other.bytes,
        )


class _Old(NamedTuple):
    key: str
    recorded_at: float
    steps: int
    bytes: int


def used_bytes(store: Store) -> int:
    """Bytes that the data needs, without the space that is free for new rows.

    Exact for SQLite, in whole pages. For PostgreSQL an estimate of the live rows and their index
    entries: its files also hold dead rows and free space, and do not shrink when rows go, so that
    their size would have more and more removed.
    """
    with store._reading() as connection:
        return _used_bytes(connection)


def plan_removal(store: Store, limits: Limits) -> Removed:
    """What `remove_batch` would remove in all, about; nothing is changed."""
    with store._reading() as connection:
        excess = _excess(connection, limits)
    found = Removed()
    for old in _oldest(store._reading, before=limits.fresh):
        if not (_is_expired(old, limits) or found.bytes < excess):
            break
        found += Removed(1, old.steps, old.bytes)
    for owner in _lost(store._reading):
        if limits.expired is not None and _is_stale(store._reading, owner, limits.expired):
            found += Removed(0, _count_steps(store._reading, owner), 0)
    return found


def remove_batch(store: Store, limits: Limits) -> Removed:
    """Removes some of what is beyond the limits, in one transaction; nothing when all is within.

    Raises:
        StoreError: the database refused; nothing of this batch was removed.
    """
    return store._transact(lambda connection: _remove_batch(connection, limits))


def remove_lost(store: Store, limits: Limits) -> int:
    """Removes expired steps that have no trajectory; returns how many.

    They were written late, after their trajectory was gone. Their age is when they were taken.
    """
    if limits.expired is None:
        return 0
    expired, gone = limits.expired, 0
    for owner in _lost(store._reading):

        def work(connection: Connection, owner: str = owner) -> int:
            has_header = sa.select(trajectories.c.id).where(trajectories.c.id == owner)
            if connection.scalar(has_header) is not None:
                return 0
            stale = _is_stale(lambda: contextlib.nullcontext(connection), owner, expired)
            return remove(connection, [owner]) if stale else 0

        if _is_stale(store._reading, owner, expired):  # without keeping writers waiting
            gone += store._transact(work)
    return gone


def is_server(store: Store) -> bool:
    """Whether it is PostgreSQL."""
    return store._engine.dialect.name == "postgresql"


def give_back(store: Store) -> bool:
    """Gives some free space back to the file system; True while there may be more.

    A SQLite file shrinks with its next checkpoint, if it was made for that
    (``auto_vacuum=INCREMENTAL``); else the space stays in the file, for new rows. PostgreSQL is
    told that the dead rows' space is free, where this user may do so.
    """
    if is_server(store):
        with store._errors("vacuum"), store._open(), store._engine.connect() as connection:
            names = ", ".join(table.name for table in _SIZED)
            connection.execution_options(isolation_level="AUTOCOMMIT").exec_driver_sql(
                f"VACUUM {names}"
            )
        return False
    with store._reading() as connection:  # where there is nothing to do, nobody has to wait
        if not _pages_to_give_back(connection):
            return False
    return store._transact(_give_back)


def _remove_batch(connection: Connection, limits: Limits) -> Removed:
    if connection.dialect.name == "postgresql":
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(PRUNING)))
    excess = _excess(connection, limits)
    batch: list[_Old] = []
    size = 0
    for old in _oldest(lambda: contextlib.nullcontext(connection), before=limits.fresh):
        is_wanted = _is_expired(old, limits) or size < excess
        if not is_wanted or len(batch) >= BATCH_TRAJECTORIES or size >= BATCH_BYTES:
            break
        batch.append(old)
        size += old.bytes
    if not batch:
        return Removed()
    # Written in between, or being written: then it is not old any more.
    still = (trajectories.c.id.in_([old.key for old in batch])) & (
        trajectories.c.recorded_at < limits.fresh
    )
    query = sa.select(trajectories.c.id).where(still).with_for_update(skip_locked=True)
    keys = set(connection.execute(query).scalars())
    number = remove(connection, sorted(keys))
    gone = sum(old.bytes for old in batch if old.key in keys)
    return Removed(len(keys), number, gone)


def _excess(connection: Connection, limits: Limits) -> int:
    if limits.max_bytes is None:
        return 0
    return _used_bytes(connection) - limits.max_bytes


def _is_expired(old: _Old, limits: Limits) -> bool:
    return limits.expired is not None and old.recorded_at < limits.expired


def _oldest(reading: Reading, *, before: float, page: int = 16) -> Iterator[_Old]:
    """Trajectories last written before a time, the oldest first, a few in each read."""
    order = (trajectories.c.recorded_at, trajectories.c.id)
    mine = steps.c.trajectory_id == trajectories.c.id
    number = sa.select(sa.func.count()).where(mine).scalar_subquery()
    last: _Old | None = None
    while True:
        with reading() as connection:
            inside = sa.func.sum(_size(connection, steps.c.body) + ROW_BYTES)
            inside = sa.select(sa.func.coalesce(inside, 0)).where(mine).scalar_subquery()
            size = _size(connection, trajectories.c.body) + ROW_BYTES + inside
            query = sa.select(*order, number.label("steps"), size.label("bytes"))
            query = query.where(trajectories.c.recorded_at < before).order_by(*order).limit(page)
            if last is not None:
                place = sa.tuple_(
                    sa.literal(last.recorded_at, sa.Double()), sa.literal(last.key, sa.String())
                )
                query = query.where(sa.tuple_(*order) > place)
            rows = connection.execute(query).all()
        for row in rows:
            last = _Old(row.id, row.recorded_at, int(row.steps), int(row.bytes))
            yield last
        if len(rows) < page:
            return


def _lost(reading: Reading, *, page: int = 100) -> Iterator[str]:
    """Keys under which there are steps but no trajectory."""
    key = steps.c.trajectory_id
    known = sa.select(trajectories.c.id).where(trajectories.c.id == key).exists()
    last = ""
    while True:
        query = sa.select(key).distinct().where(~known, key > last).order_by(key).limit(page)
        with reading() as connection:
            keys = list(connection.execute(query).scalars())
        yield from keys
        if len(keys) < page:
            return
        last = keys[-1]


def _is_stale(reading: Reading, owner: str, expired: float) -> bool:
    """Whether every step was taken before; of one that does not say when, it cannot be told."""
    query = sa.select(steps.c.body).where(steps.c.trajectory_id == owner)
    with reading() as connection:
        for body in connection.execute(query).scalars():
            taken = load(Step, body, owner).started_at
            if taken is not None and taken.tzinfo is None:
                taken = taken.replace(tzinfo=UTC)
            if taken is None or taken.timestamp() >= expired:
                return False
    return True


def _count_steps(reading: Reading, owner: str) -> int:
    query = sa.select(sa.func.count()).where(steps.c.trajectory_id == owner)
    with reading() as connection:
        return connection.scalar(query) or 0


def _size(connection: Connection, body: sa.ColumnElement[Any]) -> sa.ColumnElement[int]:
    """Bytes of a text as it is stored: compressed, on PostgreSQL."""
    if connection.dialect.name == "postgresql":
        return sa.cast(sa.func.pg_column_size(body), sa.BigInteger)
    return sa.func.length(sa.cast(body, sa.LargeBinary))


def _used_bytes(connection: Connection) -> int:
    if connection.dialect.name == "sqlite":
        pages = _pragma(connection, "page_count") - _pragma(connection, "freelist_count")
        return pages * _pragma(connection, "page_size")
    return sum(_estimate_bytes(connection, table) for table in _SIZED)


def _estimate_bytes(connection: Connection, table: sa.Table) -> int:
    """Bytes of a PostgreSQL table's live rows, from a sample of its pages."""
    block = sa.cast(sa.func.current_setting("block_size"), sa.BigInteger)
    size = sa.cast(sa.func.pg_relation_size(sa.cast(table.name, REGCLASS)), sa.BigInteger)
    pages = connection.scalar(sa.select(size // block)) or 0
    percent = 100.0 if pages <= SAMPLE_PAGES else 100.0 * SAMPLE_PAGES / pages
    sample = sa.tablesample(table, sa.func.system(percent))
    body = sa.func.sum(_size(connection, sample.c.body)) if "body" in table.c else sa.literal(0)
    query = sa.select(sa.func.count(), sa.func.coalesce(body, 0)).select_from(sample)
    rows, bodies = connection.execute(query).one()
    return int((int(rows) * ROW_BYTES + int(bodies)) * 100.0 / percent)


def _pages_to_give_back(connection: Connection) -> int:
    is_incremental = _pragma(connection, "auto_vacuum") == 2  # else only VACUUM could
    return _pragma(connection, "freelist_count") if is_incremental else 0


def _give_back(connection: Connection) -> bool:
    free = _pages_to_give_back(connection)
    cursor: Any = connection.connection.cursor()
    for _ in range(min(free, GIVEN_BACK_PAGES)):  # the driver stops after the first page
        cursor.execute("PRAGMA incremental_vacuum(1)")
    cursor.close()
    return free > GIVEN_BACK_PAGES


def _pragma(connection: Connection, name: str) -> int:
    return int(connection.exec_driver_sql(f"PRAGMA {name}").scalar_one())
