"""What has to be done around `os.fork`, so that a child can record as its parent does.

A fork copies the memory and the one thread that forks: other threads are gone, and the locks that
they held stay held. Hooks cannot be taken back, so they are set once per process, and know of those
who are registered by weak references only.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

logger = logging.getLogger("rwml")

Registered = TypeVar("Registered")
_Hook = Callable[[Any], None] | None


@dataclass(frozen=True)
class _Hooks:
    before: _Hook
    parent: _Hook
    child: _Hook


def register(
    who: Registered,
    *,
    before: Callable[[Registered], None] | None = None,
    parent: Callable[[Registered], None] | None = None,
    child: Callable[[Registered], None] | None = None,
) -> None:
    """Calls functions of `who` around every fork of this process, for as long as `who` lives.

    Args:
        before: called in the thread that forks.
        parent: called in the parent afterwards.
        child: called in the child, before anything else of it.
    """
    _registered()[who] = _Hooks(before, parent, child)


def close_at_exit(who: object, close: Callable[[], None]) -> None:
    """Calls `close` when a child of `multiprocessing` ends, which skips `atexit`.

    To be called in the child, as its hook. Elsewhere it does nothing.
    """
    processes = sys.modules.get("multiprocessing.util")  # there where it is what forks
    if processes is not None:
        # The child starts by forgetting its finalizers; this is called after that.
        processes.register_after_fork(who, lambda _: processes.Finalize(who, close, exitpriority=0))


class Gate:
    """Lets a fork wait until no other thread is inside, and keeps them out until it is over."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._is_shut = False
        self._inside = 0

    @property
    def is_busy(self) -> bool:
        """Whether a thread is inside."""
        return self._inside > 0

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        """What a fork must not come between."""
        with self._changed:
            self._changed.wait_for(lambda: not self._is_shut)
            self._inside += 1
        try:
            yield
        finally:
            with self._changed:
                self._inside -= 1
                self._changed.notify_all()

    def shut(self, timeout_s: float) -> bool:
        """Keeps newcomers out; returns whether all others left in time."""
        with self._changed:
            self._is_shut = True
            return self._changed.wait_for(lambda: not self._inside, timeout_s)

    def open(self) -> None:
        """Lets them in again."""
        with self._changed:
            self._is_shut = False
            self._changed.notify_all()


@functools.cache
def _registered() -> weakref.WeakKeyDictionary[Any, _Hooks]:
    known: weakref.WeakKeyDictionary[Any, _Hooks] = weakref.WeakKeyDictionary()

    def tell(name: str) -> None:
        for reference in known.keyrefs():  # a copy: other threads may register
            who = reference()
            if who is None:  # it was collected meanwhile, perhaps by what another hook did
                continue
            hook: _Hook = getattr(known.get(who), name, None)
            try:
                if hook is not None:
                    hook(who)
            except Exception as error:  # noqa: BLE001 - a fork is the host program's
                logger.warning("rwml: a fork was not prepared for: %s", type(error).__name__)

    if hasattr(os, "register_at_fork"):
        os.register_at_fork(
            before=functools.partial(tell, "before"),
            after_in_parent=functools.partial(tell, "parent"),
            after_in_child=functools.partial(tell, "child"),
        )
    return known
