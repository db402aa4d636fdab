"""Store URLs: which ones there are, and how one is shown without the secrets in it."""

from __future__ import annotations

import re
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.exc import ArgumentError

from rwml.errors import StoreError
from rwml.redaction import is_secret_name

_PLAIN = re.compile(r"[\w./\\ -]{1,100}")


def parse_url(url: str) -> sa.URL:
    """Reads a store's URL; a SQLite path becomes absolute.

    Raises:
        StoreError: it cannot be read, or is of a database that rwml does not know.
    """
    try:
        parsed = sa.make_url(url)
    except (ArgumentError, ValueError):  # whose texts may hold the password, as may the URL
        shown = repr(url) if _PLAIN.fullmatch(url) else "what was given"
        raise StoreError(f"{shown} is no store URL: use sqlite:///FILE, say") from None
    if "@" in (parsed.host or ""):
        raise StoreError("the password in the store URL has an '@': write it as %40")
    if parsed.drivername in ("postgresql", "postgres"):
        return parsed.set(drivername="postgresql+psycopg")
    if parsed.get_backend_name() == "postgresql":
        return parsed
    if parsed.get_backend_name() != "sqlite":
        raise StoreError(f"{parsed.drivername!r} is no database that rwml knows")
    file = parsed.database or ":memory:"
    if ":memory:" in file or file.startswith("file:"):
        raise StoreError("a SQLite store is a file on disk: use sqlite:///FILE")
    return parsed.set(database=str(Path(file).absolute()))  # a later chdir must not move it


def shown_url(url: sa.URL) -> str:
    """The URL as text, without a password, wherever in it one is."""
    hidden = {name: "***" for name in url.query if is_secret_name(name)}
    return url.update_query_dict(hidden).render_as_string(hide_password=True)


def store_files(url: str) -> tuple[Path, ...]:
    """The files of a SQLite store: database, logs and their index, lock, key. None for a server.

    Raises:
        StoreError: the URL cannot be read.
    """
    parsed = parse_url(url)
    if parsed.get_backend_name() != "sqlite":
        return ()
    return tuple(
        Path(f"{parsed.database}{end}") for end in ("", "-wal", "-shm", "-journal", ".lock", ".key")
    )
