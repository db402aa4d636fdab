"""The secret key of a store: what its hashes of texts are keyed with.

Whoever has the hashes but not the key cannot test guesses of what was redacted, so the key never
stands in the database: it is a file beside a SQLite store, a file in the user's state folder for a
server's, or comes from the environment (which several machines may share).
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import secrets
from pathlib import Path

import sqlalchemy as sa

from rwml.errors import UsageError

logger = logging.getLogger("rwml")

KEY_VARIABLE = "RWML_KEY"
"""Environment variable with a secret text, from which the key is made."""
KEY_BYTES = 32
MIN_CHARS = 16
"""A shorter text in the environment could be guessed (ours)."""
CHECK_BYTES = 8
"""Enough to tell keys apart, by what says nothing about them (ours)."""


def store_key(url: sa.URL) -> bytes:
    """The key of a store; made where there is none yet.

    Args:
        url: as `parse_url` gives it.

    Returns:
        32 bytes, the same in every process that may read the key's file. A random key, with a
        warning, where the file can be neither read nor made: conversations that other processes
        began are then not continued.

    Raises:
        UsageError: the text in the environment is too short.
    """
    try:
        return find_key(url) or _make(key_file(url))
    except OSError as error:
        logger.warning(
            "rwml: the store's key cannot be kept (%s): conversations are not continued across "
            "processes; set %s",
            error.strerror,
            KEY_VARIABLE,
        )
        return secrets.token_bytes(KEY_BYTES)


def find_key(url: sa.URL) -> bytes | None:
    """As `store_key`, but None where there is none yet.

    Raises:
        UsageError: the text in the environment is too short.
        OSError: the file cannot be read, or holds no key.
    """
    text = os.environ.get(KEY_VARIABLE)
    if not text:
        return _read(key_file(url))
    if len(text) < MIN_CHARS:
        raise UsageError(
            f"{KEY_VARIABLE} must have {MIN_CHARS} characters or more: set it to the output "
            f"of 'openssl rand -hex 32', say"
        )
    return hashlib.blake2b(text.encode(), digest_size=KEY_BYTES, person=b"rwml-key").digest()


def key_check(key: bytes) -> bytes:
    """What a store keeps of a key, to tell which one made a pseudonym."""
    return hashlib.blake2b(b"rwml key", digest_size=CHECK_BYTES, key=key).digest()


def key_file(url: sa.URL) -> Path:
    """Where the key of a store is, if it is in a file."""
    if url.get_backend_name() == "sqlite":
        return Path(f"{url.database}.key")
    return state_folder(url) / "store.key"


def state_folder(url: sa.URL) -> Path:
    """A folder of this user for what belongs to a server's store but must not be in it."""
    base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    server = f"{url.host or ''}:{url.port or ''}/{url.database or ''}"
    return Path(base) / "rwml" / hashlib.sha256(server.encode()).hexdigest()[:16]


def _read(path: Path) -> bytes | None:
    with contextlib.suppress(FileNotFoundError):
        key = path.read_bytes()
        if len(key) == KEY_BYTES:
            return key
        raise OSError(None, f"{path} is no key of a store")
    return None


def _make(path: Path) -> bytes:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    descriptor = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(secrets.token_bytes(KEY_BYTES))
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):  # another process was first: theirs counts
            os.link(temporary, path)
    finally:
        temporary.unlink()
    return _read(path) or b""
