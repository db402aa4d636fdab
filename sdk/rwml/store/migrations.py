"""Steps from an older store to today's, each written once and never changed afterwards.

A store of an older version is brought up to date when it is opened for writing: all steps in one
transaction, so that it is at the new version or as it was.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from rwml.errors import StoreError
from rwml.store.tables import schema_info


@dataclass(frozen=True)
class Migration:
    """One step.

    Attributes:
        version: the store's version after it; it starts from the one before.
        apply: changes tables and rows, on both databases. It must not use `rwml.store.tables`,
            which moves on, nor commit.
    """

    version: int
    apply: Callable[[Connection], None]


def _to_2(connection: Connection) -> None:
    """When a trajectory was recorded, how pending actions are found again, and pseudonyms."""
    is_postgres = connection.dialect.name == "postgresql"
    binary, real = ("BYTEA", "DOUBLE PRECISION") if is_postgres else ("BLOB", "FLOAT")
    key = 'VARCHAR COLLATE "C"' if is_postgres else "VARCHAR"
    for statement in (
        f"ALTER TABLE trajectories ADD COLUMN recorded_at {real} DEFAULT 0 NOT NULL",
        "CREATE INDEX ix_trajectories_recorded_at ON trajectories (recorded_at)",
        f"ALTER TABLE steps ADD COLUMN digest {binary}",
        f"ALTER TABLE steps ADD COLUMN tail {binary}",
        "CREATE INDEX ix_steps_digest ON steps (digest) WHERE digest IS NOT NULL",
        "CREATE INDEX ix_steps_tail ON steps (tail) WHERE digest IS NOT NULL",
        f"CREATE TABLE pseudonyms (trajectory_id {key} NOT NULL, digest {binary} NOT NULL, "
        f"name VARCHAR NOT NULL, PRIMARY KEY (trajectory_id, digest))",
    ):
        connection.exec_driver_sql(statement)
    now = sa.text("UPDATE trajectories SET recorded_at = :now")
    connection.execute(now, {"now": time.time()})  # since when nobody knows: kept for longest


def _to_3(connection: Connection) -> None:
    """Which key made a pseudonym; of those that are there already nobody knows."""
    binary = "BYTEA" if connection.dialect.name == "postgresql" else "BLOB"
    connection.exec_driver_sql(f"ALTER TABLE pseudonyms ADD COLUMN key_check {binary}")


MIGRATIONS: tuple[Migration, ...] = (Migration(2, _to_2), Migration(3, _to_3))
"""In order of version."""


def migrate(
    connection: Connection, *, found: int, wanted: int, migrations: Sequence[Migration]
) -> None:
    """Applies what lies between two versions, inside the caller's transaction.

    Raises:
        StoreError: a step is missing.
    """
    due = [migration for migration in migrations if found < migration.version <= wanted]
    if [migration.version for migration in due] != list(range(found + 1, wanted + 1)):
        raise StoreError(f"there is no way from store version {found} to {wanted}")
    for migration in due:
        migration.apply(connection)
    connection.execute(sa.update(schema_info).values(version=wanted))
