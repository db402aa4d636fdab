"""Reading and writing a store through SQLAlchemy Core.

Writes are idempotent upserts in one transaction per batch. On SQLite they are serialised across
processes by a lock file beside the database, because two connections that reset the write-ahead
log at once can corrupt it in SQLite 3.7.0-3.51.2. PostgreSQL lets writers run side by side: a
deadlock between them is tried again. Reading streams in bounded memory. No connection is open while
the process forks: a child that inherits one may corrupt or lose what both write.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa
from filelock import FileLock
from filelock import Timeout as LockTimeout
from sqlalchemy import event
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import NoSuchModuleError, OperationalError, SQLAlchemyError

from rwml import forking
from rwml.errors import MissingExtraError, StoreError, StoreUnavailableError
from rwml.schema import Step, Trajectory, Transition
from rwml.store.aggregates import Counts, Stats, count_rows, gather_stats
from rwml.store.erasure import Forgotten, Subject, find_subject, remove, scrub
from rwml.store.failures import first_line, is_out_of_reach
from rwml.store.migrations import MIGRATIONS, migrate
from rwml.store.rows import PAGE, as_key, load, step_row, trajectory_row, upsert
from rwml.store.tables import STORE_VERSION, metadata, schema_info, steps, trajectories
from rwml.store.urls import parse_url, shown_url

LOCK_TIMEOUT_S = 60.0
"""How long a write waits for another process's write before it fails (ours)."""
FORK_TIMEOUT_S = 5.0
"""How long a fork waits for a write or read that is under way in another thread (ours)."""
DEADLOCK_ATTEMPTS = 5
"""How often PostgreSQL may break a batch off in favour of another writer's (ours)."""
DEADLOCK_STATES = ("40001", "40P01")
"""SQLSTATE of a serialisation failure and of a deadlock: the whole batch may be tried again."""
MAKING_TABLES = 0x72776D6C
"""Advisory lock of PostgreSQL under which tables are made or migrated ("rwml" in ASCII)."""

_Result = TypeVar("_Result")


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
        # A server may have been restarted since the last write: ask before relying on it.
        engine = sa.create_engine(parsed, pool_pre_ping=path is None)
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
        """Makes the tables of an empty database; brings an older store up to date.

        Args:
            create: False for a reader, which changes nothing and refuses an older store.

        Raises:
            StoreError: the store is newer than this rwml, or is no rwml store.
        """
        # In turn with others: a half-made store must not look like somebody else's.
        turn = self._lock if create and self._lock else contextlib.nullcontext()
        with self._errors("open"), turn:
            tables = set(sa.inspect(self._engine).get_table_names())
            if schema_info.name not in tables:
                self._make_tables(tables, create=create)
            with self._engine.connect() as connection:
                version = connection.scalar(sa.select(schema_info.c.version))
            if version is not None and version < STORE_VERSION and create:
                version = self._migrate()
        if version is None or version > STORE_VERSION:
            raise StoreError(
                f"{self.url} has store version {version}, this rwml knows {STORE_VERSION}: "
                f"upgrade rwml"
            )
        if version < STORE_VERSION:
            raise StoreError(
                f"{self.url} has store version {version}, this rwml reads {STORE_VERSION}: bring "
                f"it up to date by opening it for writing once, with rwml.open_store(URL)"
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
            OverflowError: a number is too large for SQLite; nothing was written.
        """
        header_rows = [trajectory_row(trajectory) for trajectory in headers]
        step_rows = [step_row(owner, step) for owner, step in steps_by_trajectory]
        cuts = sorted((as_key(owner), length) for owner, length in (lengths or {}).items())

        def work(connection: Connection) -> None:
            upsert(connection, trajectories, header_rows)
            for key, length in cuts:
                beyond = (steps.c.trajectory_id == key) & (steps.c.step_index >= length)
                connection.execute(sa.delete(steps).where(beyond))
            upsert(connection, steps, step_rows)

        self._transact(work)

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
        with self._reading() as connection:
            return count_rows(connection, _conditions(filters))

    def stats(self, **filters: str | None) -> Stats:
        """Sums up what the store is made of: one streamed pass in bounded memory."""
        return gather_stats(self._reading, _conditions(filters))

    def find_ids(self, prefix: str, *, limit: int) -> list[str]:
        """The first ids that begin with `prefix`, in order."""
        key = as_key(prefix)
        begins = (trajectories.c.id >= key) & (trajectories.c.id < key + "\U0010ffff")
        query = sa.select(trajectories.c.id, trajectories.c.body).where(begins)
        with self._reading() as connection:
            rows = connection.execute(query.order_by(trajectories.c.id).limit(limit)).all()
        return [load(Trajectory, row.body, row.id).id for row in rows]

    def find(self, subject: Subject) -> list[str]:
        """Keys of the trajectories that `forget` would remove."""
        with self._reading() as connection:
            return find_subject(connection, subject)

    def forget(self, subject: Subject) -> Forgotten:
        """Removes every trajectory that holds the subject, with its steps, in one transaction.

        Afterwards the store is rewritten, so that the bytes are gone from its files too. What a
        recorder still has in its queue, or records later, is written all the same.

        Raises:
            StoreError: the database refused; nothing was removed, or (where it says so) nothing
                was erased from the files yet.
        """

        def work(connection: Connection) -> tuple[list[str], int]:
            keys = find_subject(connection, subject)
            return keys, remove(connection, keys)

        with self._errors("write to"), self._lock or contextlib.nullcontext():
            keys, number = self._transact(work)
            with self._errors("erase what was removed from"), self._open():
                return Forgotten(keys=tuple(keys), steps=number, erased=scrub(self._engine))

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
            self._one_at_a_time(connection)
            metadata.create_all(connection)
            upsert(connection, schema_info, [{"id": 1, "version": STORE_VERSION}])

    def _migrate(self) -> int:
        with self._writing() as connection:
            self._one_at_a_time(connection)
            found = connection.scalar(sa.select(schema_info.c.version)) or 0  # read in our turn
            if found < STORE_VERSION:
                migrate(connection, found=found, wanted=STORE_VERSION, migrations=MIGRATIONS)
            return max(found, STORE_VERSION)

    def _one_at_a_time(self, connection: Connection) -> None:
        if self._lock is None:
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(MAKING_TABLES)))

    def _transact(self, work: Callable[[Connection], _Result]) -> _Result:
        with self._errors("write to"):
            for _ in range(DEADLOCK_ATTEMPTS - 1):
                try:
                    with self._writing() as connection:
                        return work(connection)
                except OperationalError as error:
                    if getattr(error.orig, "sqlstate", None) not in DEADLOCK_STATES:
                        raise
            with self._writing() as connection:
                return work(connection)

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
            if self._lock:  # the driver would begin at the first INSERT, after what we read
                connection.exec_driver_sql("BEGIN IMMEDIATE")
            yield connection

    @contextlib.contextmanager
    def _reading(self) -> Iterator[Connection]:
        with self._errors("read"), self._open(), self._engine.connect() as connection:
            yield connection

    @contextlib.contextmanager
    def _errors(self, doing: str) -> Iterator[None]:
        try:
            yield
        except StoreError:
            raise
        except LockTimeout as error:
            raise StoreUnavailableError(f"{self.url} is locked by another process") from error
        except (SQLAlchemyError, OSError) as error:
            kind = StoreUnavailableError if is_out_of_reach(error) else StoreError
            raise kind(f"cannot {doing} {self.url}: {first_line(error)}") from error

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
    return [
        trajectories.c[name] == as_key(value)
        for name, value in filters.items()
        if value is not None
    ]


def _make_lock(file: str) -> FileLock:
    return FileLock(file, timeout=LOCK_TIMEOUT_S, mode=0o600)


def _configure_sqlite(connection: Any, _: object) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA busy_timeout=30000")
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.close()
