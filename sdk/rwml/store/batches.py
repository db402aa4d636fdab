"""What is written to a store in one transaction: rows that are ready, and nothing that blocks.

Rows are plain tuples in the order of their table's columns. They are made apart from writing, so
that what is written is known before the database is asked, and can wait elsewhere while it is away.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from rwml.schema import Step, Trajectory
from rwml.serialisation import dump
from rwml.store.rows import as_key, load
from rwml.store.tables import pseudonyms, steps, trajectories

CHUNK = 500
"""Keys of one query: below every database's limit of parameters (ours)."""


class HeaderRow(NamedTuple):
    """A row of `trajectories`."""

    id: str
    source: str
    task_id: str | None
    split: str | None
    status: str
    reward: float | None
    recorded_at: float
    body: str


class StepRow(NamedTuple):
    """A row of `steps`."""

    trajectory_id: str
    step_index: int
    attempt: int
    kind: str | None
    status: str
    orphans: int
    digest: bytes | None
    tail: bytes | None
    body: str


NameRow: TypeAlias = tuple[str, bytes, str, bytes | None]
"""A row of `pseudonyms`: key of the trajectory, digest, pseudonym, check of the digest's key.

A plain tuple: a long text has thousands, and Python's collector lets go only of plain ones at once.
"""


@dataclass
class Batch:
    """Rows of one transaction.

    Attributes:
        headers: trajectories; of two with one key the last counts.
        merges: what more is known of trajectories; the store's own, if it has one, stays and is
            added to. After `headers`.
        cuts: steps from this index on are removed, by key of the trajectory, before `steps` are
            written.
        steps: of two with one key the last counts.
        names: pseudonyms.
        touched: when trajectories were last added to, in seconds since the epoch, by key.
        made_at: when the batch was made, likewise.
    """

    headers: list[HeaderRow] = field(default_factory=list)
    cuts: dict[str, int] = field(default_factory=dict)
    steps: list[StepRow] = field(default_factory=list)
    names: list[NameRow] = field(default_factory=list)
    touched: dict[str, float] = field(default_factory=dict)
    made_at: float = field(default_factory=time.time)
    merges: list[HeaderRow] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.headers) + len(self.merges) + len(self.steps)

    def has_steps_of(self, key: str) -> bool:
        """Whether it holds a step of the trajectory with this key."""
        return any(row.trajectory_id == key for row in self.steps)

    def singles(self) -> Iterator[Batch]:
        """The same rows, one record to a batch; pseudonyms go with each of their trajectory."""
        names: dict[str, list[NameRow]] = {}
        for name in self.names:
            names.setdefault(name[0], []).append(name)
        for header in self.headers:
            cut = {header.id: self.cuts[header.id]} if header.id in self.cuts else {}
            mine = names.get(header.id, [])
            yield Batch(headers=[header], cuts=cut, names=mine, made_at=self.made_at)
        for merge in self.merges:
            mine = names.get(merge.id, [])
            yield Batch(merges=[merge], names=mine, made_at=self.made_at)
        for step in self.steps:
            mine = names.get(step.trajectory_id, [])
            yield Batch(steps=[step], names=mine, made_at=self.made_at)

    @classmethod
    def joined(cls, batches: Sequence[Batch]) -> Batch:
        """What `singles` took apart, in one; at least one batch."""
        whole = cls(made_at=batches[0].made_at)
        for batch in batches:
            whole.headers += batch.headers
            whole.merges += batch.merges
            whole.cuts |= batch.cuts
            whole.steps += batch.steps
            whole.touched |= batch.touched
        whole.names = list(dict.fromkeys(name for batch in batches for name in batch.names))
        return whole


def header_row(trajectory: Trajectory, body: str | None = None) -> HeaderRow:
    """The row of a trajectory, without its steps.

    Args:
        body: its JSON where that is made already.
    """
    if body is None:
        body = trajectory.model_dump_json(exclude={"steps"}, exclude_defaults=True)
    return HeaderRow(
        as_key(trajectory.id),
        as_key(trajectory.source),
        None if trajectory.task_id is None else as_key(trajectory.task_id),
        None if trajectory.split is None else as_key(trajectory.split),
        trajectory.outcome.status,
        trajectory.outcome.reward,
        time.time(),
        body,
    )


def step_row(
    key: str,
    step: Step,
    body: str | None = None,
    *,
    digest: bytes | None = None,
    tail: bytes | None = None,
) -> StepRow:
    """The row of a step.

    Args:
        key: of its trajectory, as `as_key` gives it.
        body: its JSON where that is made already.
        digest: names the action; kept only while the step is pending.
        tail: as `digest`.
    """
    if step.status != "pending":
        digest = tail = None
    return StepRow(
        key,
        step.index,
        step.attempt,
        step.kind if step.observation and step.is_whole else None,
        step.status,
        step.orphans() if step.observation else 0,
        digest,
        tail,
        step.model_dump_json(exclude_defaults=True) if body is None else body,
    )


# Made once: of each statement that is made, some is left to Python's collector of cycles.
_CUT = sa.delete(steps).where(
    steps.c.trajectory_id == sa.bindparam("key"), steps.c.step_index >= sa.bindparam("length")
)
_TOUCH = (
    sa.update(trajectories)
    .where(trajectories.c.id == sa.bindparam("key"))
    .values(recorded_at=sa.bindparam("moment"))
)


def write_batch(connection: Connection, batch: Batch) -> None:
    """Writes a batch inside the caller's transaction."""
    _upsert(connection, trajectories, batch.headers, keys=1)
    for row in batch.merges:
        _upsert(connection, trajectories, [_merged(connection, row)], keys=1)
    if batch.cuts:
        cuts = [{"key": key, "length": length} for key, length in sorted(batch.cuts.items())]
        connection.execute(_CUT, cuts)
    _upsert(connection, steps, batch.steps, keys=3)
    _upsert(connection, pseudonyms, list(dict.fromkeys(batch.names)), keys=2)
    if batch.touched:
        moments = [{"key": key, "moment": at} for key, at in sorted(batch.touched.items())]
        connection.execute(_TOUCH, moments)


def drop_outdated(connection: Connection, batch: Batch) -> Batch:
    """The batch without what is older than what the store holds of the same trajectory.

    Of such a trajectory only steps remain that the store does not have.
    """
    made = {row.id: row.recorded_at for row in batch.headers}
    keys = sorted(made.keys() | batch.cuts.keys() | {row.trajectory_id for row in batch.steps})
    newer: set[str] = set()
    there: set[tuple[str, int, int]] = set()
    for first in range(0, len(keys), CHUNK):
        chunk = keys[first : first + CHUNK]
        query = sa.select(trajectories.c.id, trajectories.c.recorded_at)
        for row in connection.execute(query.where(trajectories.c.id.in_(chunk))):
            if row.recorded_at > made.get(row.id, batch.made_at):
                newer.add(row.id)
    if newer:
        columns = (steps.c.trajectory_id, steps.c.step_index, steps.c.attempt)
        for key in sorted(newer):
            known = sa.select(*columns).where(steps.c.trajectory_id == key)
            there |= {tuple(row) for row in connection.execute(known)}  # type: ignore[misc]
    return Batch(
        headers=[row for row in batch.headers if row.id not in newer],
        cuts={key: length for key, length in batch.cuts.items() if key not in newer},
        steps=[row for row in batch.steps if row[:3] not in there],
        names=batch.names,
        touched={key: at for key, at in batch.touched.items() if key not in newer},
        made_at=batch.made_at,
        merges=batch.merges,
    )


def _merged(connection: Connection, row: HeaderRow) -> HeaderRow:
    """A header with what a later recording knows more: tools, metadata, and how it ended."""
    query = sa.select(trajectories.c.body).where(trajectories.c.id == row.id)
    body = connection.scalar(query.with_for_update())  # of two writers none takes away
    if body is None:  # it was forgotten meanwhile
        return row
    known, more = load(Trajectory, body, row.id), load(Trajectory, row.body, row.id)
    names = {tool.name for tool in known.tools}
    update: dict[str, Any] = {
        "tools": known.tools + tuple(tool for tool in more.tools if tool.name not in names),
        "metadata": {**more.metadata, **known.metadata},
    }
    if more.outcome.status != "unknown":
        update["outcome"] = more.outcome
    merged, text = dump(known.model_copy(update=update))
    return header_row(merged, text)._replace(recorded_at=row.recorded_at)


def _upsert(
    connection: Connection, table: sa.Table, rows: Sequence[tuple[Any, ...]], *, keys: int
) -> None:
    """Writes rows over those of the same key, which is made of their first `keys` columns."""
    if not rows:
        return
    if connection.dialect.name == "sqlite":  # one after the other, past SQLAlchemy's processing
        connection.exec_driver_sql(_sqlite_upsert(table), list(rows))
        return
    from sqlalchemy.dialects.postgresql import insert

    # In order of their key, so that two writers take their locks in the same order.
    latest = {row[:keys]: row for row in rows}
    ordered = [latest[key] for key in sorted(latest)]
    names = [column.name for column in table.columns]
    rows_by_name = [dict(zip(names, row, strict=True)) for row in ordered]
    connection.execute(_or_update(insert(table), table), rows_by_name)


@functools.cache
def _sqlite_upsert(table: sa.Table) -> str:
    from sqlalchemy.dialects.sqlite import dialect, insert

    return str(_or_update(insert(table), table).compile(dialect=dialect()))


def _or_update(statement: Any, table: sa.Table) -> Any:
    """Completes an INSERT of either database: what is new replaces a row of the same key.

    But an action that waits for its answer does not replace one that has it: another process
    completed it meanwhile. Recordings by hand, whose steps have no digest, do. A pseudonym comes
    with every record that uses it, and is mostly there.
    """
    new = statement.excluded
    keys = [column.name for column in table.primary_key]
    values = {c.name: new[c.name] for c in table.columns if c.name not in keys}
    where = None
    if table is steps:
        # As text: the values of an IN would become parameters of their own.
        where = sa.or_(new.digest.is_(None), sa.text("steps.status NOT IN ('ok', 'error')"))
    elif table is pseudonyms:
        where = sa.or_(table.c.name != new.name, table.c.key_check.is_(None))
    return statement.on_conflict_do_update(index_elements=keys, set_=values, where=where)
