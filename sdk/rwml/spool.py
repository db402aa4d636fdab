"""Batches on the local disk, for as long as the store cannot be reached.

What waits here is redacted and durable. Every process has a file of its own, which it locks; the
file of a process that ended is taken over by the next recorder of the same store. It is bounded:
when it is full, records wait in memory, and what does not fit there is refused and counted.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import stat
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock
from filelock import Timeout as LockTimeout

from rwml.content import join
from rwml.errors import StoreError
from rwml.serialisation import PIECE_CHARS, read_lists, text_pieces
from rwml.store import Store
from rwml.store.batches import Batch, HeaderRow, StepRow
from rwml.store.keys import state_folder

SPOOL_VARIABLE = "RWML_SPOOL"
"""Environment variable with the folder of spool files."""
MAX_BYTES = 1 << 30
"""Size of a process's spool file at most (ours)."""
_PAGE_BYTES = 4096
_ENDING = ".spool"


def spool_folder(store: Store, base: Path | None = None) -> Path:
    """Where the spool files of a store are.

    Args:
        base: a folder that several stores may share; None for ``RWML_SPOOL``, else beside a SQLite
            store's file, or in the user's state folder.
    """
    named = base or os.environ.get(SPOOL_VARIABLE)
    url = store.parsed_url
    if named:
        return Path(named) / state_folder(url).name
    if url.get_backend_name() == "sqlite":
        return Path(f"{url.database}{_ENDING}")
    return state_folder(url) / "spool"


class Spool:
    """The spool files of one store: this process's own, and those that others left.

    Not for several threads at once. Nothing is opened or made before it is needed, and no file is
    open between two calls, so that a fork can do no harm.

    Args:
        folder: made when the first batch is added, for this user only.
        max_bytes: size of this process's file at most.
    """

    def __init__(self, folder: Path, *, max_bytes: int = MAX_BYTES) -> None:
        self._folder = folder
        self._max_bytes = max_bytes
        self._own: tuple[Path, FileLock] | None = None
        self._adopted: list[tuple[Path, FileLock]] = []
        self.records = 0

    def __bool__(self) -> bool:
        return self.records > 0

    def add(self, batch: Batch) -> None:
        """Appends a batch; it is durable when this returns.

        Raises:
            StoreError: the disk refused, or the file would grow beyond its bound.
        """
        with self._errors(), self._open(self._own_file()) as connection:
            connection.execute(
                "insert into batches (records, body) values (?, ?)", (len(batch), _dump(batch))
            )
        self.records += len(batch)

    def adopt(self) -> int:
        """Takes over the files of processes that have ended; returns how many records they hold."""
        before = self.records
        held = {path for path, _ in self._files()}
        with contextlib.suppress(OSError):
            _check_owner(self._folder)  # what somebody else put there is not ours to write
            for path in sorted(self._folder.glob(f"*{_ENDING}")):
                _check_owner(path)
                lock = FileLock(f"{path}.lock", timeout=0, mode=0o600)
                if path in held or not self._try(lock):
                    continue
                try:
                    with self._errors(), self._open(path) as file:
                        self.records += _count(file)
                except StoreError:  # it is left for somebody to look at
                    lock.release(force=True)
                else:
                    self._adopted.append((path, lock))
        return self.records - before

    def oldest(self) -> tuple[Any, Batch] | None:
        """The batch that has waited longest, and a token for `remove`; None when none is left.

        Raises:
            StoreError: the file cannot be read.
        """
        for path, lock in self._files():
            with self._errors(), self._open(path) as connection:
                query = "select number, records, body from batches order by number limit 1"
                row = connection.execute(query).fetchone()
            if row is None:
                self._delete(path, lock)
                continue
            try:
                return (path, row[0], row[1]), _load(row[2])
            except Exception as error:
                raise SpoolDamagedError((path, row[0], row[1])) from error
        self.records = 0
        return None

    def remove(self, token: Any) -> None:
        """The batch is in the store now."""
        path, number, records = token
        with self._errors(), self._open(path) as connection:
            connection.execute("delete from batches where number = ?", (number,))
        self.records -= records

    def replace(self, token: Any, batch: Batch) -> None:
        """Of the batch only this is left to be written; it keeps its place."""
        path, number, records = token
        with self._errors(), self._open(path) as connection:
            connection.execute(
                "update batches set records = ?, body = ? where number = ?",
                (len(batch), _dump(batch), number),
            )
        self.records += len(batch) - records

    def release(self) -> None:
        """Lets go of the files, so that another process can take over what is left in them."""
        for path, lock in self._files():
            if self.records == 0:
                self._delete(path, lock)
            lock.release(force=True)
        self._own, self._adopted = None, []

    def _files(self) -> list[tuple[Path, FileLock]]:
        return [*self._adopted, *([self._own] if self._own else [])]

    def _own_file(self) -> Path:
        if self._own is None:
            with self._errors():
                self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                _check_owner(self._folder)
                path = self._folder / f"{os.getpid()}-{uuid.uuid4().hex[:8]}{_ENDING}"
                lock = FileLock(f"{path}.lock", timeout=0, mode=0o600)
                lock.acquire()
                os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))
            self._own = (path, lock)
        return self._own[0]

    def _delete(self, path: Path, lock: FileLock) -> None:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
            lock.release(force=True)
            Path(lock.lock_file).unlink(missing_ok=True)
            self._folder.rmdir()
        self._adopted = [(other, held) for other, held in self._adopted if other != path]
        if self._own and self._own[0] == path:
            self._own = None

    @staticmethod
    def _try(lock: FileLock) -> bool:
        try:
            lock.acquire()
        except (LockTimeout, OSError):
            return False
        return True

    @contextlib.contextmanager
    def _open(self, path: Path) -> Iterator[sqlite3.Connection]:
        # A rollback journal, not a write-ahead log: no second file outlives a connection.
        connection = sqlite3.connect(path, timeout=1.0)
        try:
            connection.execute("pragma synchronous=full")
            connection.execute("pragma secure_delete=on")  # what was forgotten is not left in it
            connection.execute(f"pragma max_page_count={max(8, self._max_bytes // _PAGE_BYTES)}")
            with connection:
                connection.execute(
                    "create table if not exists batches "
                    "(number integer primary key autoincrement, records int, body text)"
                )
                yield connection
        finally:
            connection.close()

    @staticmethod
    @contextlib.contextmanager
    def _errors() -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError, LockTimeout) as error:
            raise StoreError(f"the spool cannot be used: {error}") from error


class SpoolDamagedError(StoreError):
    """A batch that cannot be read.

    Attributes:
        token: for `Spool.remove`.
        records: how many it should hold.
    """

    def __init__(self, token: tuple[Path, int, int]) -> None:
        super().__init__(f"a batch in the spool file {token[0].name} cannot be read")
        self.token = token
        self.records = token[2]


def _count(connection: sqlite3.Connection) -> int:
    return int(connection.execute("select coalesce(sum(records), 0) from batches").fetchone()[0])


def _check_owner(path: Path) -> None:
    """Refuses what is another user's, a link, or open to others.

    Raises:
        OSError: it is.
    """
    found = path.lstat()
    is_ours = not hasattr(os, "geteuid") or found.st_uid == os.geteuid()
    is_private = os.name != "posix" or not stat.S_IMODE(found.st_mode) & 0o022
    if stat.S_ISLNK(found.st_mode) or not is_ours or not is_private:
        raise PermissionError(f"{path} is not this user's alone")


def _dump(batch: Batch) -> str:
    """The batch as JSON, made record by record: one call would hold up the agent's threads."""
    return join(_batch_pieces(batch))


def _batch_pieces(batch: Batch) -> Iterator[str]:
    yield f"[{json.dumps(batch.made_at)}"
    for part in (
        batch.headers,
        batch.cuts,
        batch.steps,
        batch.names,
        batch.touched,
        batch.merges,
    ):
        yield ", "
        if isinstance(part, dict):  # of numbers, one for each trajectory
            yield json.dumps(part)
        else:
            yield from _list_pieces(map(_row_pieces, part))
    yield "]"


def _row_pieces(row: tuple[Any, ...]) -> Iterator[str]:
    if any(isinstance(value, str) and len(value) > PIECE_CHARS for value in row):
        yield from _list_pieces(map(_value_pieces, row))
    else:
        yield json.dumps(row, default=bytes.hex)


def _value_pieces(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield from text_pieces(value)
    else:
        yield json.dumps(value, default=bytes.hex)


def _list_pieces(items: Iterable[Iterable[str]]) -> Iterator[str]:
    mark = "["
    for item in items:
        yield mark
        yield from item
        mark = ", "
    yield "]" if mark == ", " else "[]"


def _load(body: str) -> Batch:
    (made_at, headers, cuts, steps, names, touched, *merges), _ = read_lists(body)
    return Batch(
        headers=[HeaderRow(*row) for row in headers],
        cuts=cuts,
        steps=[StepRow._make([*row[:6], _bytes(row[6]), _bytes(row[7]), row[8]]) for row in steps],
        names=[  # without the check of a key, where an older rwml left them
            (owner, bytes.fromhex(digest), name, _bytes(check[0]) if check else None)
            for owner, digest, name, *check in names
        ],
        touched=touched,
        made_at=made_at,
        merges=[HeaderRow(*row) for row in (merges[0] if merges else ())],
    )


def _bytes(text: str | None) -> bytes | None:
    return None if text is None else bytes.fromhex(text)
