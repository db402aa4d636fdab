"""Reading and writing a store through SQLAlchemy Core.

Writes are idempotent upserts in one transaction per batch. On SQLite they are serialised across
processes by a lock file beside the database, because two connections that reset the write-ahead
log at once can corrupt it in SQLite 3.7.0-3.51.2. PostgreSQL lets writers run side by side: a
deadlock between them is tried again. Reading streams in bounded memory. No connection is open while
the process forks: a child that inherits one may corrupt or lose what both write.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeVar

import sqlalchemy as sa
from filelock import FileLock
from filelock import Timeout as LockTimeout
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import OperationalError, SQLAlchemyError

from rwml import forking
from rwml.errors import StoreError, StoreUnavailableError
from rwml.schema import Step, Trajectory, Transition
from rwml.store.aggregates import Counts, Stats, count_rows, gather_stats
from rwml.store.batches import Batch, drop_outdated, header_row, step_row, write_batch
from rwml.store.erasure import Forgotten, Subject, find_subject, remove, scrub
from rwml.store.failures import first_line, is_out_of_reach
from rwml.store.keys import store_key
from rwml.store.locking import EAGER_S, LOCK_TIMEOUT_S, make_lock, turn
from rwml.store.lookups import (
    Pending,
    claim,
    conditions,
    find_pending,
    header_body,
    names_of,
    steps_of,
)
from rwml.store.migrations import MIGRATIONS, migrate
from rwml.store.rows import PAGE, as_key, load
from rwml.store.tables import (
    STORE_VERSION,
    metadata,
    schema_info,
    steps,
    trajectories,
)
from rwml.store.urls import shown_url

FORK_TIMEOUT_S = 5.0
"""How long a fork waits for a write or read that is under way in another thread (ours)."""
SERVER_FORK_TIMEOUT_S = 0.5
"""The same for a server's store, which may be silent (ours)."""
DEADLOCK_ATTEMPTS = 5
"""How often PostgreSQL may break a batch off in favour of another writer's (ours)."""
DEADLOCK_STATES = ("40001", "40P01")
"""SQLSTATE of a serialisation failure and of a deadlock: the whole batch may be tried again."""
MAKING_TABLES = 0x72776D6C
"""Advisory lock of PostgreSQL under which tables are made or migrated ("rwml" in ASCII)."""

_Result = TypeVar("_Result")


class Store:
    """Trajectories in a database. Make one with `open_store`; safe to share between threads."""

    def __init__(self, *, engine: Engine, lock: FileLock | None) -> None:
        self._engine = engine
        self._lock = lock
        self._gate = forking.Gate()
        self._is_stranded = False
        self._is_checked = True
        forking.register(
            self, before=Store._before_fork, parent=Store._in_parent, child=Store._in_child
        )

    @property
    def url(self) -> str:
        """The store's URL, without a password."""
        return shown_url(self._engine.url)

    @property
    def parsed_url(self) -> sa.URL:
        """The store's URL in its parts, password included: not to be shown."""
        return self._engine.url

    def check_version(self, *, create: bool, patience_s: float = LOCK_TIMEOUT_S) -> None:
        """Makes the tables of an empty database; brings an older store up to date.

        Args:
            create: False for a reader, which changes nothing and refuses an older store.

        Raises:
            StoreError: the store is newer than this rwml, or is no rwml store.
        """
        # In turn with others: a half-made store must not look like somebody else's.
        wait = turn(self._lock, patience_s) if create else contextlib.nullcontext()
        with self._errors("open"), wait:
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
        batch = Batch(headers=[header_row(trajectory) for trajectory in headers])
        batch.cuts = {as_key(owner): length for owner, length in (lengths or {}).items()}
        batch.steps = [step_row(as_key(owner), step) for owner, step in steps_by_trajectory]
        self.write_batch(batch)

    def write_batch(
        self, batch: Batch, *, patience_s: float = LOCK_TIMEOUT_S, is_late: bool = False
    ) -> None:
        """Writes rows that were made before, all or nothing; see `write` for the errors.

        Args:
            patience_s: how long to wait for other writers, in seconds.
            is_late: the rows waited elsewhere: what was written since counts more.
        """

        def work(connection: Connection) -> None:
            write_batch(connection, drop_outdated(connection, batch) if is_late else batch)

        self._transact(work, patience_s=patience_s)

    def check_later(self) -> None:
        """The store was out of reach: its version is checked before it is used."""
        self._is_checked = False

    @functools.cached_property
    def key(self) -> bytes:
        """The store's secret key, 32 bytes; see `rwml.store.keys`."""
        return store_key(self._engine.url)

    def find_pending(self, digest: bytes | None, tail: bytes | None) -> Pending | None:
        """The only pending action that has this digest, else the only one that has this tail."""
        with self._reading() as connection:
            return find_pending(connection, digest, tail)

    def claim_pending(
        self, digest: bytes | None, tail: bytes | None, *, patience_s: float = LOCK_TIMEOUT_S
    ) -> Pending | None:
        """As `find_pending`, and takes it: of several processes that ask, one gets the action.

        Args:
            patience_s: how long to wait for other writers, in seconds.
        """
        found = self.find_pending(digest, tail)
        if found is None:
            return None
        is_mine = self._transact(lambda c: claim(c, found), patience_s=patience_s)
        return found if is_mine else None

    def header(self, key: str) -> Trajectory | None:
        """The trajectory with this key, without its steps; None where there is none."""
        with self._reading() as connection:
            body = header_body(connection, key)
        return None if body is None else load(Trajectory, body, key)

    def pseudonyms(self, key: str) -> dict[bytes, str]:
        """What stands for redacted values in a trajectory, by keyed digest of the value."""
        with self._reading() as connection:
            return names_of(connection, key)

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
        wanted = conditions(filters)
        last: str | None = None
        while True:
            query = sa.select(trajectories.c.id, trajectories.c.body).where(*wanted)
            if last is not None:
                query = query.where(trajectories.c.id > last)
            with self._reading() as connection:
                rows = connection.execute(query.order_by(trajectories.c.id).limit(PAGE)).all()
                found = steps_of(connection, [row.id for row in rows])
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
            return count_rows(connection, conditions(filters))

    def stats(self, **filters: str | None) -> Stats:
        """Sums up what the store is made of: one streamed pass in bounded memory."""
        return gather_stats(self._reading, conditions(filters))

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
            return find_subject(connection, subject, self.key)

    def forget(self, subject: Subject) -> Forgotten:
        """Removes every trajectory that holds the subject, with its steps, in one transaction.

        Afterwards the store is rewritten, so that the bytes are gone from its files too. What a
        recorder still has in its queue, or records later, is written all the same.

        Raises:
            StoreError: the database refused; nothing was removed, or (where it says so) nothing
                was erased from the files yet.
        """

        def work(connection: Connection) -> tuple[list[str], int]:
            keys = find_subject(connection, subject, self.key)
            return keys, remove(connection, keys)

        with self._errors("write to"), turn(self._lock, LOCK_TIMEOUT_S):
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
                connection.exec_driver_sql("PRAGMA auto_vacuum=INCREMENTAL")  # it can shrink
                connection.exec_driver_sql("PRAGMA journal_mode=WAL")
        with self._writing() as connection:
            self._one_at_a_time(connection)
            metadata.create_all(connection)
            if connection.scalar(sa.select(schema_info.c.id)) is None:  # another made it meanwhile
                connection.execute(sa.insert(schema_info).values(id=1, version=STORE_VERSION))

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

    def _transact(
        self, work: Callable[[Connection], _Result], *, patience_s: float = LOCK_TIMEOUT_S
    ) -> _Result:
        with self._errors("write to"):
            for _ in range(DEADLOCK_ATTEMPTS - 1):
                try:
                    with self._writing(patience_s) as connection:
                        return work(connection)
                except OperationalError as error:
                    if getattr(error.orig, "sqlstate", None) not in DEADLOCK_STATES:
                        raise
            with self._writing(patience_s) as connection:
                return work(connection)

    def _close_connections(self, timeout_s: float) -> None:
        with contextlib.ExitStack() as stack:
            with contextlib.suppress(OSError):  # nobody can write here: closing is harmless
                stack.enter_context(turn(self._lock, timeout_s))
            self._engine.dispose()

    def _before_fork(self) -> None:
        # A child that inherits SQLite's lock is stranded; of a server it only has to let go.
        if self._gate.shut(FORK_TIMEOUT_S if self._lock else SERVER_FORK_TIMEOUT_S):
            self._close_connections(FORK_TIMEOUT_S)

    def _in_parent(self) -> None:
        self._gate.open()

    def _in_child(self) -> None:
        # SQLite would take the parent's lock for ours, and wait for it without an end.
        self._is_stranded = self._lock is not None and self._gate.is_busy
        self._gate = forking.Gate()
        self._engine.dispose(close=False)  # should one be open after all, it is the parent's
        if self._lock:
            self._lock = make_lock(self._lock.lock_file)

    @contextlib.contextmanager
    def _open(self) -> Iterator[None]:
        with self._gate.inside():
            if not self._is_checked:
                self._is_checked = True
                try:
                    self.check_version(create=True, patience_s=EAGER_S)
                except BaseException:
                    self._is_checked = False
                    raise
            if self._is_stranded:
                raise StoreUnavailableError(
                    f"this process was forked in the middle of a write to {self.url}: start it anew"
                )
            yield

    @contextlib.contextmanager
    def _writing(self, patience_s: float = LOCK_TIMEOUT_S) -> Iterator[Connection]:
        with self._open(), turn(self._lock, patience_s), self._engine.begin() as connection:
            if self._lock:  # the driver would begin at the first INSERT, after what we read
                connection.exec_driver_sql(f"PRAGMA busy_timeout={int(patience_s * 500)}")
                connection.exec_driver_sql("BEGIN IMMEDIATE")
            else:
                limit = f"SET LOCAL lock_timeout = {int(patience_s * 1000)}"
                connection.exec_driver_sql(limit)
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
