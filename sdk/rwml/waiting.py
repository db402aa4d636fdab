"""The bounded queue between the agent's threads and the one writer.

Putting something takes a microsecond and never waits. It is bounded in number and in bytes; what
does not fit is refused, and the caller counts it. The writer is woken once after a pause, then
waits a moment for more, so that an agent's thread hardly ever pays for waking it.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from contextlib import AbstractContextManager
from typing import Any

Lock = AbstractContextManager[Any]
"""Reentrant: a signal handler may record, or flush, in the middle of a put."""

LINGER_S = 0.02
"""How long the writer waits for more before it writes less than a full batch (ours)."""


class WaitingRecords:
    """A first-in first-out queue with one consumer; everything else may come from any thread.

    Args:
        items: how many may wait, those that the consumer works on included.
        size: how many bytes they may keep alive together, by what their makers say.
        batch: how many the consumer takes at once.
        lock: held while the queue changes; whoever counts what was taken holds it too.
    """

    def __init__(self, *, items: int, size: int, batch: int, lock: Lock) -> None:
        self._max_items = items
        self._max_size = size
        self._batch = batch
        self._lock = lock
        self._done = threading.Condition(lock)  # type: ignore[arg-type]  # an RLock
        self._wake = threading.Event()
        self._hurry = threading.Event()
        self._waiting: deque[tuple[Any, int]] = deque()
        self._count = 0
        self._size = 0
        self._number_put = 0
        self._number_done = 0
        self._taken_size = 0
        self._sleeps = False
        self._is_closed = False

    def __len__(self) -> int:
        return self._count

    def put(self, item: Any, size: int) -> bool:
        """Adds an item, if there is room; never waits."""
        with self._lock:
            is_large = self._size + size > self._max_size and self._count
            if self._is_closed or self._count >= self._max_items or is_large:
                return False
            self._waiting.append((item, size))
            self._count += 1
            self._size += size
            self._number_put += 1
            wake, self._sleeps = self._sleeps, False
        if wake:
            self._wake.set()
        return True

    def take(self, timeout_s: float | None) -> list[Any]:
        """The next items, in order; empty when `timeout_s` passed. To be followed by `done`.

        Only for the consumer.
        """
        with self._lock:
            self._sleeps = not self._waiting
            if self._sleeps:
                self._wake.clear()
        if self._sleeps or not self._waiting:
            self._wake.wait(timeout_s)
            self._sleeps = False
        if 0 < len(self._waiting) < self._batch:
            self._hurry.wait(LINGER_S)
        with self._lock:
            number = min(len(self._waiting), self._batch)
            taken = [self._waiting.popleft() for _ in range(number)]
            self._taken_size = sum(size for _, size in taken)
            if not self._waiting:
                self._hurry.clear()
        return [item for item, _ in taken]

    def done(self, number: int) -> None:
        """The consumer has finished the items that it took last."""
        with self._lock:
            self._count -= number
            self._size -= self._taken_size
            self._taken_size = 0
            self._number_done += number
            self._done.notify_all()

    def hurry(self) -> None:
        """Lets the consumer go on at once."""
        self._hurry.set()
        self._wake.set()

    def wait_done(self, timeout_s: float) -> bool:
        """Waits until all that was put before this call is finished; False when time ran out."""
        deadline = time.monotonic() + timeout_s
        with self._lock:
            wanted = self._number_put
            while self._number_done < wanted:
                self.hurry()
                left = deadline - time.monotonic()
                if left <= 0:
                    return False
                self._done.wait(min(left, 0.1))  # the consumer may not be there any more
        return True

    def close(self) -> None:
        """Refuses everything from now on; what is there is still taken."""
        with self._lock:
            self._is_closed = True
        self.hurry()

    def drain(self) -> list[Any]:
        """Takes out everything that the consumer has not taken, for when it has ended."""
        with self._lock:
            left = [item for item, _ in self._waiting]
            self._waiting.clear()
            self._count -= len(left)
            self._number_done += len(left)
            self._size = self._taken_size
            self._done.notify_all()
        return left
