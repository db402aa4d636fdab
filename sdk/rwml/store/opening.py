"""Opening a store: its file, its engine, its lock.

Databases are set up the same way wherever they are opened; a server that does not answer is given
up after seconds, not minutes, so that whoever writes can go on.
"""

from __future__ import annotations

import logging
import os
import stat
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.exc import NoSuchModuleError

from rwml.errors import MissingExtraError, StoreError, StoreUnavailableError
from rwml.store.database import Store
from rwml.store.locking import EAGER_S, LOCK_TIMEOUT_S, make_lock
from rwml.store.urls import parse_url

logger = logging.getLogger("rwml")

POSTGRES_OPTIONS = {
    "connect_timeout": 5,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
}
"""libpq's limits on a server that is silent: seconds, the last in milliseconds (ours)."""


def open_store(url: str, *, create: bool = True, eager: bool = True) -> Store:
    """Opens a store, and makes it where there is none.

    Args:
        url: ``sqlite:///path/to/file.db`` or ``postgresql+psycopg://user@host/database``.
        create: False to refuse a store that does not exist yet (for readers).
        eager: False to accept a store that is out of reach: it is looked at when it is first used,
            and again until it answers.

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
        engine = (
            sa.create_engine(parsed)
            if path
            else sa.create_engine(parsed, pool_pre_ping=True, connect_args=_options(parsed))
        )
    except NoSuchModuleError as error:
        raise StoreError(f"{parsed.drivername!r} is no database that rwml knows") from error
    except ModuleNotFoundError as error:
        raise MissingExtraError("postgres", error.name or "psycopg") from error
    lock = make_lock(f"{path}.lock") if path else None
    if path is not None:
        event.listen(engine, "connect", _configure_sqlite)
    store = Store(engine=engine, lock=lock)
    try:
        store.check_version(create=create, patience_s=LOCK_TIMEOUT_S if eager else EAGER_S)
    except StoreUnavailableError as error:
        if eager:
            engine.dispose()
            raise
        store.check_later()
        logger.warning("rwml: %s: what is recorded waits on this machine", error)
    except BaseException:
        engine.dispose()
        raise
    return store


def _options(url: sa.URL) -> dict[str, Any]:
    """What the URL itself does not say; other drivers than psycopg have other names."""
    if url.drivername != "postgresql+psycopg":
        return {}
    return {name: value for name, value in POSTGRES_OPTIONS.items() if name not in url.query}


def _configure_sqlite(connection: Any, _: object) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA busy_timeout=30000")
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.close()
