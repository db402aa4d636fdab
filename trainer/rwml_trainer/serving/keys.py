"""Keys of the gateway: shown once, kept as hashes in a file of mode 0600, alive until they end.

Whether a key is known, revoked or expired is decided here, before a body is read; which models it
may ask and how often is LiteLLM's to hold (see `auth`). A key is 256 random bits, so that a plain
SHA-256 is enough: there is nothing to guess that a slow hash would protect.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock
from pydantic import BaseModel, ConfigDict, ValidationError

from rwml.errors import UsageError
from rwml.files import make_private, whole_file

KEYS = "keys.json"
SESSION = "session"
"""Name of the key that `rwml serve` makes for as long as it runs."""
LOCK_TIMEOUT_S = 10.0
SECRET_BYTES = 32


class Key(BaseModel):
    """What is kept of a key.

    Attributes:
        name: who has it; recorded traffic names it as the tenant.
        sha256: of the key, as hex.
        created_at: in UTC.
        expires_at: in UTC; None for never.
        models: names (``NAME`` for all its versions, or ``NAME@STEP``); empty for all.
        rpm_limit: requests a minute; None for any number.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    sha256: str
    created_at: datetime
    expires_at: datetime | None = None
    models: tuple[str, ...] = ()
    rpm_limit: int | None = None

    def may_ask(self, model: str) -> bool:
        """Whether a name is among its models."""
        return not self.models or model in self.models or model.partition("@")[0] in self.models

    def is_alive(self, now: datetime) -> bool:
        """Whether it has not expired."""
        return self.expires_at is None or now < self.expires_at


class _File(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    keys: tuple[Key, ...] = ()


class KeyFile:
    """The keys of a serving folder, for those who make and end them.

    Args:
        folder: of the server; made if missing.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / KEYS
        self._lock = FileLock(folder / f".{KEYS}.lock", timeout=LOCK_TIMEOUT_S, mode=0o600)

    def read(self) -> tuple[Key, ...]:
        """All keys, expired ones too.

        Raises:
            UsageError: the file is not one of ours.
        """
        return _read(self.path)

    def add(
        self,
        name: str,
        *,
        expires_at: datetime | None = None,
        models: tuple[str, ...] = (),
        rpm_limit: int | None = None,
    ) -> str:
        """Makes a key.

        Returns:
            The key itself, which is kept nowhere.

        Raises:
            UsageError: the name is taken, or the server's own.
        """
        if name == SESSION:
            raise UsageError(
                f"{SESSION!r} is the server's own key, which ends with it: choose another name"
            )
        return self._add(name, expires_at=expires_at, models=models, rpm_limit=rpm_limit)

    def _add(
        self,
        name: str,
        *,
        expires_at: datetime | None = None,
        models: tuple[str, ...] = (),
        rpm_limit: int | None = None,
    ) -> str:
        secret = f"sk-{secrets.token_urlsafe(SECRET_BYTES)}"
        made = Key(
            name=name,
            sha256=_hash(secret.encode()),
            created_at=datetime.now(UTC),
            expires_at=expires_at,
            models=models,
            rpm_limit=rpm_limit,
        )
        with self._changing() as keys:
            if any(key.name == name for key in keys):
                raise UsageError(
                    f"a key is named {name!r} already: revoke it, or choose another name"
                )
            keys.append(made)
        return secret

    def revoke(self, name: str) -> None:
        """Ends a key; a running gateway refuses its next request.

        Raises:
            UsageError: there is none of this name.
        """
        with self._changing() as keys:
            left = [key for key in keys if key.name != name]
            if len(left) == len(keys):
                known = ", ".join(key.name for key in keys) or "there is none"
                raise UsageError(f"no key is named {name!r}: {known}")
            keys[:] = left

    def renew_session(self) -> str:
        """Makes the key of a server that starts; one that a killed server left behind ends."""
        self.end_session()
        return self._add(SESSION)

    def end_session(self) -> None:
        """Ends the key of a server that stops."""
        with self._changing() as keys:
            keys[:] = [key for key in keys if key.name != SESSION]

    @contextmanager
    def _changing(self) -> Iterator[list[Key]]:
        make_private(self.path.parent)
        with self._lock:
            keys = list(_read(self.path))
            yield keys
            with whole_file(self.path) as temporary:
                text = _File(keys=tuple(keys)).model_dump_json(indent=2)
                temporary.write_text(text, encoding="utf-8")


class KeyRing:
    """The keys as the gateway asks for them: read again whenever their file is another one.

    Args:
        path: of the file.
        clock: what time it is, in UTC.
    """

    def __init__(
        self, path: Path, *, clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self._path = path
        self._clock = clock
        self._seen: tuple[int, int, int] | None = None
        self._keys: tuple[Key, ...] = ()

    def find(self, secret: bytes) -> Key | None:
        """The key that this is; None for one that is unknown, revoked or expired.

        Every hash is compared, each in constant time: how long it takes tells nothing of any key.
        A file that cannot be read holds no key.
        """
        self._reload()
        presented = _hash(secret)
        found = [key for key in self._keys if hmac.compare_digest(key.sha256, presented)]
        return next((key for key in found if key.is_alive(self._clock())), None)

    def __bool__(self) -> bool:
        self._reload()
        return bool(self._keys)

    def _reload(self) -> None:
        try:
            status = os.stat(self._path)  # noqa: PTH116 - asked for with every request
        except OSError:
            self._seen, self._keys = None, ()
            return
        seen = (status.st_mtime_ns, status.st_ino, status.st_size)
        if seen != self._seen:
            try:
                self._seen, self._keys = seen, _read(self._path)
            except UsageError:  # perhaps only for now: it is read again with the next request
                self._seen, self._keys = None, ()


def _read(path: Path) -> tuple[Key, ...]:
    try:
        return _File.model_validate_json(path.read_text(encoding="utf-8")).keys
    except FileNotFoundError:
        return ()
    except (OSError, ValidationError, ValueError) as error:
        raise UsageError(f"{path} is no file of keys: move it away, and add keys anew") from error


def _hash(secret: bytes) -> str:
    return hashlib.sha256(secret).hexdigest()
