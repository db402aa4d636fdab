"""The tables of a store, and the version of their shape.

A trajectory is one row without its steps; each step is a row of its own, so that a long episode
grows by appending. The JSON body is the truth; the other columns are there to be filtered on.
Keys are ordered by bytes on every database, whatever its locale, so that streaming gives the same
order everywhere.
"""

from __future__ import annotations

from sqlalchemy import (
    Column,
    Float,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
)

STORE_VERSION = 3
"""Version of the tables below; stored in the database and checked at opening."""

metadata = MetaData()

_KEY = String().with_variant(String(collation="C"), "postgresql")
"""Text that is compared by its bytes; SQLite does so by default."""

schema_info = Table(
    "rwml_schema",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("version", Integer, nullable=False),
)

trajectories = Table(
    "trajectories",
    metadata,
    Column("id", _KEY, primary_key=True),
    Column("source", _KEY, nullable=False),
    Column("task_id", _KEY),
    Column("split", _KEY),
    Column("status", String, nullable=False),
    Column("reward", Float),
    Column("recorded_at", Float, nullable=False, server_default="0"),  # seconds since the epoch
    Column("body", Text, nullable=False),
    Index("ix_trajectories_source_task", "source", "task_id"),
    Index("ix_trajectories_recorded_at", "recorded_at"),
)

steps = Table(
    "steps",
    metadata,
    Column("trajectory_id", _KEY, primary_key=True),
    Column("step_index", Integer, primary_key=True),
    Column("attempt", Integer, primary_key=True),
    Column("kind", String),
    Column("status", String, nullable=False),
    Column("orphans", Integer, nullable=False),
    Column("digest", LargeBinary),  # keyed hashes by which a pending action is found again
    Column("tail", LargeBinary),
    Column("body", Text, nullable=False),
)
_IS_PENDING = steps.c.digest.is_not(None)
Index("ix_steps_digest", steps.c.digest, sqlite_where=_IS_PENDING, postgresql_where=_IS_PENDING)
Index("ix_steps_tail", steps.c.tail, sqlite_where=_IS_PENDING, postgresql_where=_IS_PENDING)

pseudonyms = Table(
    "pseudonyms",
    metadata,
    Column("trajectory_id", _KEY, primary_key=True),
    Column("digest", LargeBinary, primary_key=True),  # keyed: of the value that it stands for
    Column("name", String, nullable=False),
    Column("key_check", LargeBinary),  # of the key behind the digest; NULL where it was not kept
)
