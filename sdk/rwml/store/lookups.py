"""What readers and the writer look up: steps, filters, and an action that waits for its answer."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from rwml.errors import StoreError
from rwml.schema import Step
from rwml.store.rows import as_key, load
from rwml.store.tables import pseudonyms, steps, trajectories

# Made once: of each statement that is made, some is left to Python's collector of cycles.
_KEY = sa.bindparam("key", type_=sa.String())
_BODY_OF = sa.select(trajectories.c.body).where(trajectories.c.id == _KEY)
_NAMES_OF = sa.select(pseudonyms.c.digest, pseudonyms.c.name).where(
    pseudonyms.c.trajectory_id == _KEY
)


@dataclass(frozen=True)
class Pending:
    """A step that waits for its observation; it is the last of its trajectory.

    Attributes:
        key: of its trajectory, as `rwml.store.rows.as_key` makes it.
    """

    key: str
    step: Step


def header_body(connection: Connection, key: str) -> str | None:
    """The stored JSON of a trajectory without its steps; None where there is none."""
    return connection.scalar(_BODY_OF, {"key": key})


def names_of(connection: Connection, key: str) -> dict[bytes, str]:
    """The pseudonyms of a trajectory by digest."""
    rows = connection.execute(_NAMES_OF, {"key": key})
    return {bytes(row.digest): row.name for row in rows}


def find_pending(
    connection: Connection, digest: bytes | None, tail: bytes | None
) -> Pending | None:
    """The only pending action that has this digest, else the only one that has this tail.

    An action that others followed in its trajectory is not pending any more, whatever came back
    of it: a second answer to it is a branch.
    """
    if digest is not None:
        found = _last_steps(connection, steps.c.digest == digest)
        if len(found) == 1:  # of two that look alike, nobody can tell whose answer it is
            return found[0]
    if tail is not None:
        found = _last_steps(connection, steps.c.tail == tail)
        if len(found) == 1:
            return found[0]
    return None


def claim(connection: Connection, pending: Pending) -> bool:
    """Takes a pending action, so that no other process finds it; False where one was quicker."""
    step = pending.step
    mine = (
        (steps.c.trajectory_id == pending.key)
        & (steps.c.step_index == step.index)
        & (steps.c.attempt == step.attempt)
        & (steps.c.status == "pending")
        & steps.c.digest.is_not(None)
    )
    return (
        connection.execute(sa.update(steps).where(mine).values(digest=None, tail=None)).rowcount
        == 1
    )


def _last_steps(connection: Connection, condition: sa.ColumnElement[bool]) -> list[Pending]:
    later = steps.alias()
    is_last = ~sa.exists().where(
        (later.c.trajectory_id == steps.c.trajectory_id) & (later.c.step_index > steps.c.step_index)
    )
    has_digest = steps.c.digest.is_not(None)  # lets the databases use their partial index
    query = (
        sa.select(steps.c.trajectory_id, steps.c.body)
        .where(condition, has_digest, steps.c.status == "pending", is_last)
        .order_by(steps.c.trajectory_id)
        .limit(2)
    )
    return [
        Pending(row.trajectory_id, load(Step, row.body, row.trajectory_id))
        for row in connection.execute(query)
    ]


def steps_of(connection: Connection, ids: list[str]) -> dict[str, list[Step]]:
    """The steps of trajectories by their keys, in order."""
    query = (
        sa.select(steps.c.trajectory_id, steps.c.body)
        .where(steps.c.trajectory_id.in_(ids))
        .order_by(steps.c.trajectory_id, steps.c.step_index, steps.c.attempt)
    )
    found: dict[str, list[Step]] = {}
    for row in connection.execute(query):
        found.setdefault(row.trajectory_id, []).append(load(Step, row.body, row.trajectory_id))
    return found


def conditions(filters: dict[str, str | None]) -> list[sa.ColumnElement[bool]]:
    """What the filters of a reader ask for; see `Store.trajectories`.

    Raises:
        StoreError: an unknown filter.
    """
    known = {"source", "task_id", "split", "id"}
    unknown = sorted(set(filters) - known)
    if unknown:
        raise StoreError(f"unknown filter {unknown[0]!r}: use one of {', '.join(sorted(known))}")
    return [
        trajectories.c[name] == as_key(value)
        for name, value in filters.items()
        if value is not None
    ]
