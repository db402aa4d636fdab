"""The bounded queue between the agent's threads and the one writer.

Putting something takes a microsecond and never waits. It is bounded in number and in bytes; what
does not fit is refused, and the caller counts it. The writer waits a moment for more before it
works, so that an agent's thread hardly ever pays for waking it. A signal handler or a finaliser
may put something, or wait, in the middle of a put of the same thread: nothing here blocks then.
"""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from queue import Empty, SimpleQueue
from typing import Any

LINGER_S = 0.02
"""How long the writer waits for more before it writes less than a full batch (ours)."""
POLL_S = (0.0005, 0.01)
"""First and longest pause of somebody who waits for the writer (ours)."""

Lock = AbstractContextManager[Any]
"""Reentrant, so that a thread never waits for itself."""
_WAKE = object()


class WaitingRecords:
    """A first-in first-out queue with one consumer; everything else may come from any thread.

    What is put is counted by those who put, what is done by the consumer, and neither changes the
    other's numbers: so no lock is needed between them.

    Args:
        items: how many may wait, those that the consumer works on included.
        size: how many bytes they may keep alive together, by what their makers say.
        batch: how many the consumer takes at once.
        lock: held while something is put; whoever counts what was taken holds it too.
    """

    def __init__(self, *, items: int, size: int, batch: int, lock: Lock) -> None:
        self._max_items = items
        self._max_size = size
        self._batch = batch
        self._lock = lock
        self._items: SimpleQueue[Any] = SimpleQueue()  # whose put is reentrant, unlike an Event's
        self._hurry: SimpleQueue[None] = SimpleQueue()
        self._numbers = itertools.count(1)
        self._number_put = self._size_put = 0
        self._number_done = self._size_done = 0
        self._taken_size = 0
        self._is_closed = False

    def __len__(self) -> int:
        return self._number_put - self._number_done

    def put(self, item: Any, size: int) -> bool:
        """Adds an item, if there is room; never waits."""
        with self._lock:
            waiting = self._number_put - self._number_done
            if self._is_closed or waiting >= self._max_items:
                return False
            if waiting and self._size_put - self._size_done + size > self._max_size:
                return False
            self._number_put = next(self._numbers)
            self._size_put += size
            self._items.put((item, size))
        return True

    def take(self, timeout_s: float | None) -> list[Any]:
        """The next items, in order; empty when `timeout_s` passed. To be followed by `done`.

        Only for the consumer.
        """
        try:
            first = self._items.get(timeout=timeout_s)
        except Empty:
            return []
        if self._items.qsize() < self._batch - 1 and first is not _WAKE:
            self.pause(LINGER_S)
        taken: list[tuple[Any, int]] = []
        for found in itertools.chain((first,), self._ready()):
            if found is not _WAKE:
                taken.append(found)
                if len(taken) >= self._batch:
                    break
        self._taken_size = sum(size for _, size in taken)
        return [item for item, _ in taken]

    def done(self, number: int) -> None:
        """The consumer has finished the items that it took last."""
        self._size_done += self._taken_size
        self._taken_size = 0
        self._number_done += number

    def pause(self, timeout_s: float | None) -> None:
        """Lets the consumer wait until somebody is in a hurry, or time is up."""
        with contextlib.suppress(Empty):
            self._hurry.get(timeout=timeout_s)
            while True:  # one look is enough for all of them
                self._hurry.get_nowait()

    def hurry(self) -> None:
        """Lets the consumer go on at once."""
        self._hurry.put(None)
        self._items.put(_WAKE)

    def wait_done(self, timeout_s: float) -> bool:
        """Waits until all that was put before this call is finished; False when time ran out."""
        deadline = time.monotonic() + timeout_s
        wanted = self._number_put
        pause_s, longest_s = POLL_S
        if self._number_done < wanted:
            self.hurry()
        while self._number_done < wanted:
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                return False
            time.sleep(min(pause_s, left_s))
            pause_s = min(2 * pause_s, longest_s)
        return True

    def close(self) -> None:
        """Refuses everything from now on; what is there is still taken."""
        with self._lock:
            self._is_closed = True
        self.hurry()

    def drain(self) -> list[Any]:
        """Takes out everything that the consumer has not taken, for when it has ended."""
        left = [found for found in self._ready() if found is not _WAKE]
        self._number_done = self._number_put
        self._size_done = self._size_put
        return [item for item, _ in left]

    def _ready(self) -> Iterator[Any]:
        with contextlib.suppress(Empty):
            while True:
                yield self._items.get_nowait()
