"""Stores for tests: one that is gone when it is closed, and one that fails on request.

Both are real stores over a real SQLite file: what a test sees is what production does.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from rwml.store import Store, open_store

Fault = Exception | Callable[[int], Exception | None] | None
"""An error for every write, or a function of the write's number (from 1); None for no fault."""


class _Wrapped(Store):
    """A store that does all its work through another one."""

    def __init__(self, inner: Store) -> None:
        # Not Store.__init__: engine, lock and gate are the inner one's, found by __getattr__.
        self._inner = inner

    if not TYPE_CHECKING:  # for a type checker, it has what a Store has and nothing else

        def __getattr__(self, name: str) -> Any:
            if name == "_inner":  # before it is set, or in a copy
                raise AttributeError(name)
            return getattr(self._inner, name)

    def __enter__(self) -> Self:
        return self

    def close(self) -> None:
        """Closes the store behind it."""
        self._inner.close()


class MemoryStore(_Wrapped):
    """A store that is gone when it is closed. Made by `memory_store`.

    Attributes:
        folder: where its files are until then.
    """

    def __init__(self, inner: Store, folder: Path) -> None:
        super().__init__(inner)
        self.folder = folder
        self._remove = weakref.finalize(self, _remove_folder, folder, os.getpid())

    def close(self) -> None:
        """Closes the store and removes its files."""
        super().close()
        self._remove()


class FaultyStore(_Wrapped):
    """A store whose writes fail or hang on request; reads work, and what was written is kept.

    Args:
        store: does the work where there is no fault. It is closed with this one.
        fail: an exception that every write raises, or a function that takes the number of the
            write (from 1) and returns an exception or None. It can be set anew at any time.

    Attributes:
        fail: see above.
        writes: how many writes were begun.
        failures: how many of them raised the fault.
    """

    def __init__(self, store: Store, *, fail: Fault = None) -> None:
        super().__init__(store)
        self.fail = fail
        self.writes = 0
        self.failures = 0
        self._counting = threading.Lock()
        self._free = threading.Event()
        self._free.set()
        self._arrived = threading.Event()

    def write_batch(self, *arguments: Any, **options: Any) -> None:
        """Writes as `Store.write_batch` does, unless there is a fault."""
        with self._counting:
            self.writes += 1
            number = self.writes
        if not self._free.is_set():
            self._arrived.set()
            self._free.wait()
        fault = self.fail(number) if callable(self.fail) else self.fail
        if fault is not None:
            with self._counting:
                self.failures += 1
            raise fault
        self._inner.write_batch(*arguments, **options)

    @contextmanager
    def stalled(self) -> Iterator[FaultyStore]:
        """Within the block every write hangs; when it ends, they go on."""
        self._arrived.clear()
        self._free.clear()
        try:
            yield self
        finally:
            self._free.set()

    def wait_stalled(self, timeout_s: float = 10.0) -> bool:
        """Waits until a write hangs; False when time ran out."""
        return self._arrived.wait(timeout_s)

    def close(self) -> None:
        """Lets go of hanging writes, and closes the store behind it."""
        self._free.set()
        super().close()


def fail_on(*numbers: int, error: Exception) -> Callable[[int], Exception | None]:
    """A fault for `FaultyStore`: the writes with these numbers (from 1) raise an error."""
    return lambda number: error if number in numbers else None


def memory_store() -> MemoryStore:
    """An empty store in a temporary folder, which is removed when the store is closed.

    SQLite's own ``:memory:`` is one connection's; a store is read and written by several.

    Returns:
        A `Store`; a context manager like any other.
    """
    folder = Path(tempfile.mkdtemp(prefix="rwml-test-"))
    try:
        return MemoryStore(open_store(f"sqlite:///{folder / 'rwml.db'}"), folder)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _remove_folder(folder: Path, process: int) -> None:
    if os.getpid() == process:  # a forked child must not take it from its parent
        shutil.rmtree(folder, ignore_errors=True)
