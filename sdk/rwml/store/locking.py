"""Turns of those who write to one SQLite file: a lock file beside it, known to all processes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from filelock import FileLock

LOCK_TIMEOUT_S = 60.0
"""How long a write waits for another process's write before it fails (ours)."""
EAGER_S = 1.0
"""The same for a recorder that opens its store: the program that starts must not wait (ours)."""
LOCK_POLL_S = 0.005
"""How often a writer that waits looks for the lock. A lock file knows no queue: who looks rarely is
starved by who looks often (ours)."""


def make_lock(file: str) -> FileLock:
    """The lock that writers of a SQLite file take their turns by."""
    return FileLock(file, timeout=LOCK_TIMEOUT_S, mode=0o600)


@contextlib.contextmanager
def turn(lock: FileLock | None, patience_s: float) -> Iterator[None]:
    """Holds the lock inside; nothing where there is none.

    Args:
        lock: None for a server, which lets writers run side by side.
        patience_s: how long to wait for it, in seconds.

    Raises:
        filelock.Timeout: others held it for longer.
    """
    if lock is None:
        yield
    else:
        with lock.acquire(timeout=patience_s, poll_interval=LOCK_POLL_S):
            yield
