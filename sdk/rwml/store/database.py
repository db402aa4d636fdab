"""Reading and writing a store through SQLAlchemy Core.

Writes are idempotent upserts in one transaction per batch. On SQLite they are serialised across
processes by a lock file beside the database, because two connections that reset the write-ahead
log at once can corrupt it in SQLite 3.7.0-3.51.2. Reading streams in bounded memory. No connection
is open while the process forks: a child that inherits one may corrupt or lose what both write.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from filelock import FileLock
from filelock import Timeout as LockTimeout
from sqlalchemy import event
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import InterfaceError, NoSuchModuleError, OperationalError, SQLAlchemyError

from rwml import forking
from rwml.errors import MissingExtraError, StoreError, StoreUnavailableError
from rwml.schema import Step, Trajectory, Transition
from rwml.store.rows import load, step_row, trajectory_row
from rwml.store.tables import STORE_VERSION, metadata, schema_info, steps, trajectories
from rwml.store.urls import parse_url, shown_url

PAGE = 64
"""Trajectories read at once: bounds memory, whatever the size of the store (ours)."""
LOCK_TIMEOUT_S = 60.0
"""How long a write waits for another process's write before it fails (ours)."""
FORK_TIMEOUT_S = 5.0
"""How long a fork waits for a write or read that is under way in another thread (ours)."""


@dataclass(frozen=True)
class Counts:
    """What a store holds, by one pass of SQL aggregates.

    Attributes:
        trajectories: recorded trajectories.
        transitions: steps whose next state is known.
        pending: steps still waiting for it.
        errors: transitions whose next state is an error.
        interrupted: steps that were cut off.
        orphans: tool results that answer no call, plus steps without a trajectory.
    """

    trajectories: int
    transitions: int
    pending: int
    errors: int
    interrupted: int
    orphans: int


def open_store(url: str, *, create: bool = True) -> Store:
    """Opens a store, and makes it where there is none.

    Args:
        url: ``sqlite:///path/to/file.db`` or ``postgresql+psycopg://user@host/database``.
        create: False to refuse a store that does not exist yet (for readers).

    Raises:
        StoreError: the URL cannot be read, there is no store (with ``create=False``), it was
            written by a newer rwml (it is left as it is), or the file is not a store.
        MissingExtraError: the database driver is not installed.
    """
    parsed = parse_url(url)
    path = Path(parsed.database or "") if parsed.get_backend_name() == "sqlite" else None
    if path is not None and not path.exists():
        if not create:
            raise StoreError(
                f"no store at {path}: record something first, say with "
                f"'rwml record tau2 --store {url}'"
            )
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            os.close(os.open(path, os.O_CREAT | os.O_WRONLY, stat.S_IRUSR | stat.S_IWUSR))
        except OSError as error:
            raise StoreError(f"cannot make a store at {path}: {error.strerror}") from error
    try:
        engine = sa.create_engine(parsed)
    except NoSuchModuleError as error:
        raise StoreError(f"{parsed.drivername!r} is no database that rwml knows") from error
    except ModuleNotFoundError as error:
        raise MissingExtraError("postgres", error.name or "psycopg") from error
    lock = _make_lock(f"{path}.lock") if path else None
    if path is not None:
        event.listen(engine, "connect", _configure_sqlite)
    store = Store(engine=engine, lock=lock)
    try:
        store.check_version(create=create)
    except BaseException:
        engine.dispose()
        raise
    return store


class Store:
    """Trajectories in a database. Make one with `open_store`; safe to share between threads."""

    def __init__(self, *, engine: Engine, lock: FileLock | None) -> None:
        self._engine = engine
        self._lock = lock
        self._gate = forking.Gate()
        self._is_stranded = False
        forking.register(
            self, before=Store._before_fork, parent=Store._in_parent, child=Store._in_child
        )

    @property
    def url(self) -> str:
        """The store's URL, without a password."""
        return shown_url(self._engine.url)

    def check_version(self, *, create: bool) -> None:
        """Makes the tables of an empty database; refuses another version's.

        Raises:
            StoreError: the store is newer than this rwml, or is no rwml store.
        """
        # In turn with others: a half-made store must not look like somebody else's.
        turn = self._lock if create and self._lock else contextlib.nullcontext()
        try:
            with turn:
                tables = set(sa.inspect(self._engine).get_table_names())
                if schema_info.name not in tables:
                    self._make_tables(tables, create=create)
                with self._engine.connect() as connection:
                    version = connection.scalar(sa.select(schema_info.c.version))
        except StoreError:
            raise
        except (SQLAlchemyError, OSError) as error:
            raise StoreError(f"cannot open {self.url}: {_first_line(error)}") from error
        if version is None or version > STORE_VERSION:
            raise StoreError(
                f"{self.url} has store version {version}, this rwml knows {STORE_VERSION}: "
                f"upgrade rwml"
            )

    def write(
        self,
        *,
        headers: Sequence[Trajectory] = (),
        lengths: Mapping[str, int] | None = None,
        steps_by_trajectory: Sequence[tuple[str, Step]] = (),
    ) -> None:
        """Upserts trajectories (without their steps) and steps, all or nothing.

        Args:
            headers: trajectories; their steps are not looked at.
            lengths: trajectories that are recorded anew, with how many steps they have now:
                what an earlier recording had beyond that is removed.
            steps_by_trajectory: pairs of trajectory id and step.

        Raises:
            StoreError: the database refused; nothing of this batch was written.
            StoreUnavailableError: it is locked or out of reach, whatever the batch.
        """
        header_rows = [trajectory_row(trajectory) for trajectory in headers]
        step_rows = [step_row(owner, step) for owner, step in steps_by_trajectory]
        try:
            with self._writing() as connection:
                _upsert(connection, trajectories, header_rows)
                for owner, length in (lengths or {}).items():
                    beyond = (steps.c.trajectory_id == owner) & (steps.c.step_index >= length)
                    connection.execute(sa.delete(steps).where(beyond))
                _upsert(connection, steps, step_rows)
        except LockTimeout as error:
            raise StoreUnavailableError(f"{self.url} is locked by another process") from error
        except StoreError:
            raise
        except (SQLAlchemyError, OSError) as error:
            kind = StoreUnavailableError if _is_out_of_reach(error) else StoreError
            raise kind(f"cannot write to {self.url}: {_first_line(error)}") from error

    def add(self, trajectory: Trajectory) -> None:
        """Writes one whole trajectory; it replaces an earlier recording of the same id."""
        self.write(
            headers=[trajectory],
            lengths={trajectory.id: len(trajectory.steps)},
            steps_by_trajectory=[(trajectory.id, step) for step in trajectory.steps],
        )

    def trajectories(self, **filters: str | None) -> Iterator[Trajectory]:
        """Streams trajectories in order of id.

        Args:
            **filters: equal to a column: ``source``, ``task_id``, ``split``, ``id``; None to
                leave it open.

        Raises:
            StoreError: an unknown filter, or a row that does not fit the schema.
        """
        wanted = _conditions(filters)
        last: str | None = None
        while True:
            query = sa.select(trajectories.c.id, trajectories.c.body).where(*wanted)
            if last is not None:
                query = query.where(trajectories.c.id > last)
            with self._reading() as connection:
                rows = connection.execute(query.order_by(trajectories.c.id).limit(PAGE)).all()
                found = self._steps_of(connection, [row.id for row in rows])
            for row in rows:
                yield load(Trajectory, row.body, row.id).model_copy(
                    update={"steps": tuple(found.get(row.id, ()))}
                )
            if len(rows) < PAGE:
                return
            last = rows[-1].id

    def transitions(
        self, *, history: int | None = None, **filters: str | None
    ) -> Iterator[Transition]:
        """Streams transitions of the matching trajectories; see `Trajectory.transitions`."""
        for trajectory in self.trajectories(**filters):
            yield from trajectory.transitions(history=history)

    def counts(self, **filters: str | None) -> Counts:
        """Counts what the store holds, optionally of matching trajectories only."""
        wanted = _conditions(filters)
        known = sa.select(trajectories.c.id).where(*wanted)
        mine = steps.c.trajectory_id.in_(known)
        known_next = steps.c.kind.is_not(None)
        done = steps.c.status.in_(("ok", "error")) & known_next
        with self._reading() as connection:

            def count(table: sa.Table, *where: Any) -> int:
                query = sa.select(sa.func.count()).select_from(table).where(*where)
                return connection.scalar(query) or 0

            stray = sa.select(sa.func.coalesce(sa.func.sum(steps.c.orphans), 0)).where(mine)
            lost = steps.c.trajectory_id.not_in(sa.select(trajectories.c.id))
            return Counts(
                trajectories=count(trajectories, *wanted),
                transitions=count(steps, mine, done),
                pending=count(steps, mine, steps.c.status == "pending"),
                errors=count(steps, mine, steps.c.status == "error", known_next),
                interrupted=count(steps, mine, steps.c.status == "interrupted"),
                orphans=int(connection.scalar(stray) or 0) + (0 if wanted else count(steps, lost)),
            )

    def close(self) -> None:
        """Closes the connections; the last one writes the log back, so it takes its turn."""
        self._close_connections(LOCK_TIMEOUT_S)

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _make_tables(self, found: set[str], *, create: bool) -> None:
        # A file is one program's; a server's database may be shared.
        if found if self._lock else found & {trajectories.name, steps.name}:
            raise StoreError(f"{self.url} has tables of another program: use another URL")
        if not create:
            raise StoreError(f"{self.url} is no rwml store: check the URL")
        if self._lock:  # kept in the file by SQLite, so it is never set on somebody else's
            with self._engine.connect() as connection:
                connection.exec_driver_sql("PRAGMA journal_mode=WAL")
        with self._writing() as connection:
            metadata.create_all(connection)
            _upsert(connection, schema_info, [{"id": 1, "version": STORE_VERSION}])

    def _close_connections(self, timeout_s: float) -> None:
        with contextlib.ExitStack() as stack:
            if self._lock:
                with contextlib.suppress(OSError):  # nobody can write here: closing is harmless
                    stack.enter_context(self._lock.acquire(timeout=timeout_s))
            self._engine.dispose()

    def _before_fork(self) -> None:
        if self._gate.shut(FORK_TIMEOUT_S):
            self._close_connections(FORK_TIMEOUT_S)

    def _in_parent(self) -> None:
        self._gate.open()

    def _in_child(self) -> None:
        # SQLite would take the parent's lock for ours, and wait for it without an end.
        self._is_stranded = self._lock is not None and self._gate.is_busy
        self._gate = forking.Gate()
        self._engine.dispose(close=False)  # should one be open after all, it is the parent's
        if self._lock:
            self._lock = _make_lock(self._lock.lock_file)

    @contextlib.contextmanager
    def _open(self) -> Iterator[None]:
        with self._gate.inside():
            if self._is_stranded:
                raise StoreUnavailableError(
                    f"this process was forked in the middle of a write to {self.url}: start it anew"
                )
            yield

    @contextlib.contextmanager
    def _writing(self) -> Iterator[Connection]:
        turn = self._lock or contextlib.nullcontext()
        with self._open(), turn, self._engine.begin() as connection:
            yield connection

    @contextlib.contextmanager
    def _reading(self) -> Iterator[Connection]:
        try:
            with self._open(), self._engine.connect() as connection:
                yield connection
        except SQLAlchemyError as error:
            raise StoreError(f"cannot read {self.url}: {_first_line(error)}") from error

    @staticmethod
    def _steps_of(connection: Connection, ids: list[str]) -> dict[str, list[Step]]:
        query = (
            sa.select(steps.c.trajectory_id, steps.c.body)
            .where(steps.c.trajectory_id.in_(ids))
            .order_by(steps.c.trajectory_id, steps.c.step_index, steps.c.attempt)
        )
        found: dict[str, list[Step]] = {}
        for row in connection.execute(query):
            found.setdefault(row.trajectory_id, []).append(load(Step, row.body, row.trajectory_id))
        return found


def _conditions(filters: dict[str, str | None]) -> list[sa.ColumnElement[bool]]:
    known = {"source", "task_id", "split", "id"}
    unknown = sorted(set(filters) - known)
    if unknown:
        raise StoreError(f"unknown filter {unknown[0]!r}: use one of {', '.join(sorted(known))}")
    return [trajectories.c[name] == value for name, value in filters.items() if value is not None]


def _upsert(connection: Connection, table: sa.Table, rows: list[dict[str, Any]]) -> None:
    if not rows:
        return
    if connection.dialect.name == "postgresql":
        from sqlalchemy.dialects.postgresql import insert
    else:
        from sqlalchemy.dialects.sqlite import insert
    statement = insert(table)
    keys = [column.name for column in table.primary_key]
    values = {c.name: statement.excluded[c.name] for c in table.columns if c.name not in keys}
    connection.execute(statement.on_conflict_do_update(index_elements=keys, set_=values), rows)


def _make_lock(file: str) -> FileLock:
    return FileLock(file, timeout=LOCK_TIMEOUT_S, mode=0o600)


def _configure_sqlite(connection: Any, _: object) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA busy_timeout=30000")
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.close()


def _first_line(error: Exception) -> str:
    return str(getattr(error, "orig", None) or error).splitlines()[0]


def _is_out_of_reach(error: Exception) -> bool:
    """Whether the database, rather than a value, is why a write failed."""
    state = str(getattr(getattr(error, "orig", None), "sqlstate", None) or "")
    of_a_value = state.startswith("54")  # PostgreSQL: a limit, such as the size of an index row
    return isinstance(error, (OperationalError, InterfaceError, OSError)) and not of_a_value
