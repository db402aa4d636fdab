"""Steps from an older store to today's, each written once and never changed afterwards.

A store of an older version is brought up to date when it is opened for writing: all steps in one
transaction, so that it is at the new version or as it was.
"""

from __future__ import annotations

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


MIGRATIONS: tuple[Migration, ...] = ()
"""In order of version. Version 1 is the first, so there is none yet."""


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
