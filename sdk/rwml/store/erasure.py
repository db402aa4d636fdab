"""Forgetting a subject: finding every trajectory that holds it, and removing it for good.

Texts are compared literally, in the database, so that a large store is not read into memory.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from rwml.errors import UsageError
from rwml.redaction import Redaction
from rwml.schema import Step, Trajectory
from rwml.store.keys import find_key, key_check
from rwml.store.rows import as_key, load, read_pages
from rwml.store.tables import pseudonyms, steps, trajectories

if TYPE_CHECKING:
    from rwml.store.database import Store

CHUNK = 500
"""Keys of one DELETE: below every database's limit of parameters (ours)."""
SCRUB_WAIT_MS = 5000
"""How long emptying SQLite's log waits for readers, while no writer can write (ours)."""
JSON_LEVELS = 2
"""How deep JSON text may lie inside a stored text and still be searched (ours)."""


@dataclass(frozen=True)
class Subject:
    """What to forget; exactly one of these.

    Attributes:
        trajectory: id of one trajectory.
        thread: every trajectory of this thread.
        match: every trajectory with this text anywhere in it, case by case, no pattern. Field
            names of the stored JSON count too: rather too much than too little.

    Raises:
        UsageError: none or several are given, or one is empty or no text.
    """

    trajectory: str | None = None
    thread: str | None = None
    match: str | None = None

    def __post_init__(self) -> None:
        given = [v for v in (self.trajectory, self.thread, self.match) if v is not None]
        if len(given) != 1:
            raise UsageError("name one of a trajectory, a thread, or a text to match")
        if not given[0]:
            raise UsageError("the empty text would match everything: name what to forget")
        try:
            given[0].encode()
        except UnicodeEncodeError as error:
            raise UsageError("what to forget is not UTF-8 text") from error


@dataclass(frozen=True)
class Forgotten:
    """What was removed.

    Attributes:
        keys: keys of the trajectories, as `rwml.store.rows.as_key` makes them.
        steps: how many steps went with them.
        erased: True when no file of the store holds their bytes any more; False when another
            process is reading, so that the log could not be emptied; None for PostgreSQL, whose
            own log and backups are its administrator's.
    """

    keys: tuple[str, ...]
    steps: int
    erased: bool | None


def find_subject(connection: Connection, subject: Subject, key: bytes) -> list[str]:
    """Keys of the trajectories that hold the subject, in order; steps without one included.

    A subject that was redacted is found by what stands for it, if this key made that: see
    `other_keys`.

    Args:
        key: of the store, with which the digests of redacted values were made.
    """
    text = subject.trajectory or subject.match or subject.thread or ""
    forms = {text, Redaction().session(key=key).id(text)}  # as it is, and as an id that is hidden
    if subject.trajectory is not None:
        keys = {as_key(form) for form in forms}
        mine = [trajectories.c.id.in_(keys), steps.c.trajectory_id.in_(keys)]
        return sorted(_keys(connection, *mine))
    if subject.match is not None:
        found = {k for form in forms for k in _keys(connection, *_holding(connection, form))}
        return sorted(found | set(_with_pseudonyms(connection, text, key)))
    thread = text
    found = {k for form in forms for k in _of_thread(connection, form)}
    for owner, names in _with_pseudonyms(connection, thread, key).items():
        hidden = Redaction().session(key=key, known=names).text(thread)
        if owner in _of_thread(connection, hidden, trajectories.c.id == owner):
            found.add(owner)
    return sorted(found)


def other_keys(store: Store) -> int | None:
    """How many other keys made pseudonyms in a store: behind those nothing can be found here.

    Returns:
        None where an older rwml made some, which did not keep whose they are.

    Raises:
        StoreError: the store cannot be read.
        UsageError: the key in the environment is too short.
    """
    mine = None
    with contextlib.suppress(OSError):  # one that cannot be read made nothing that we know of
        mine = find_key(store.parsed_url)
    with store._reading() as connection:
        query = sa.select(pseudonyms.c.key_check).distinct()
        checks = connection.execute(query).scalars().all()
    if None in checks:
        return None
    found = {bytes(check) for check in checks}
    return len(found - {key_check(mine)} if mine else found)


def remove(connection: Connection, keys: Iterable[str]) -> int:
    """Deletes trajectories and their steps; returns how many steps there were."""
    left, gone = list(keys), 0
    while left:
        chunk, left = left[:CHUNK], left[CHUNK:]
        connection.execute(sa.delete(trajectories).where(trajectories.c.id.in_(chunk)))
        connection.execute(sa.delete(pseudonyms).where(pseudonyms.c.trajectory_id.in_(chunk)))
        gone += connection.execute(
            sa.delete(steps).where(steps.c.trajectory_id.in_(chunk))
        ).rowcount
    return gone


def scrub(engine: Engine) -> bool | None:
    """Rewrites the store without what was deleted; call it while holding the writers' lock.

    SQLite leaves deleted and overwritten bytes in free pages and in its log until the file is
    rebuilt and the log emptied. See `Forgotten.erased` for the answer.
    """
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        if engine.dialect.name == "postgresql":
            connection.exec_driver_sql(
                f"VACUUM {trajectories.name}, {steps.name}, {pseudonyms.name}"
            )
            return None
        connection.exec_driver_sql("VACUUM")
        patience = connection.exec_driver_sql("PRAGMA busy_timeout").scalar_one()
        connection.exec_driver_sql(f"PRAGMA busy_timeout={SCRUB_WAIT_MS}")
        busy = connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)").scalar()
        connection.exec_driver_sql(f"PRAGMA busy_timeout={patience}")
        return busy == 0


def json_forms(text: str) -> list[str]:
    """The forms a text can have inside a body: JSON in JSON escapes it again, ASCII or not."""
    forms = {text}
    for _ in range(JSON_LEVELS + 1):
        forms |= {_escaped(form, ascii_only=flag) for form in forms for flag in (True, False)}
    # The text as it is stands in no body, unless there is nothing to escape in it.
    return sorted(forms - {text} | {_escaped(text, ascii_only=False)})


def _escaped(text: str, *, ascii_only: bool) -> str:
    return json.dumps(text, ensure_ascii=ascii_only)[1:-1]


def _contains(connection: Connection, column: sa.Column[Any], text: str) -> Any:
    find = sa.func.strpos if connection.dialect.name == "postgresql" else sa.func.instr
    return find(column, text) > 0


def _holding(connection: Connection, text: str) -> list[sa.ColumnElement[bool]]:
    """A condition for each table: the text stands in a body or in the id."""
    found: list[sa.ColumnElement[bool]] = []
    for table, key in ((trajectories, trajectories.c.id), (steps, steps.c.trajectory_id)):
        bodies = [_contains(connection, table.c.body, form) for form in json_forms(text)]
        found.append(sa.or_(_contains(connection, key, as_key(text)), *bodies))
    return found


def _keys(
    connection: Connection, header: sa.ColumnElement[bool], step: sa.ColumnElement[bool]
) -> Iterator[str]:
    query = sa.union(
        sa.select(trajectories.c.id).where(header), sa.select(steps.c.trajectory_id).where(step)
    )
    yield from connection.execute(query).scalars()


def _with_pseudonyms(connection: Connection, text: str, key: bytes) -> dict[str, dict[bytes, str]]:
    """Trajectories in which all personal data of a text has a pseudonym, with these names."""
    session = Redaction().session(key=key)
    session.text(text)
    wanted = list(session.used_names())
    if not wanted:
        return {}
    query = sa.select(pseudonyms).where(pseudonyms.c.digest.in_(wanted))
    found: dict[str, dict[bytes, str]] = {}
    for row in connection.execute(query):
        found.setdefault(row.trajectory_id, {})[bytes(row.digest)] = row.name
    return {owner: names for owner, names in found.items() if len(names) == len(wanted)}


def _of_thread(connection: Connection, thread: str, *only: sa.ColumnElement[bool]) -> set[str]:
    def reading() -> contextlib.AbstractContextManager[Connection]:
        return contextlib.nullcontext(connection)

    in_header, in_step = _holding(connection, thread)
    found: set[str] = set()
    for row in read_pages(reading, trajectories, in_header, *only):
        if str(load(Trajectory, row.body, row.id).metadata.get("thread_id")) == thread:
            found.add(row.id)
    for row in () if only else read_pages(reading, steps, in_step):
        provenance = load(Step, row.body, row.trajectory_id).provenance
        if provenance is not None and provenance.thread_id == thread:
            found.add(row.trajectory_id)
    return found
