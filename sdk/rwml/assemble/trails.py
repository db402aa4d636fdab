"""The trajectories that an assembler keeps open, in bounded memory."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable

from rwml.assemble.state import ACTION_BYTES, Trail
from rwml.errors import UsageError
from rwml.schema import Message


class OpenTrails:
    """Open trajectories; the least recently used are closed. Not for several threads at once.

    Args:
        kept: how many stay open; None for all of them.
        kept_bytes: how much memory they may take together, roughly; None for any amount.
        closed: called with each that was closed.

    Raises:
        UsageError: a bound cannot be used.
    """

    def __init__(
        self, *, kept: int | None, kept_bytes: int | None, closed: Callable[[Trail], object]
    ) -> None:
        if (kept is not None and kept < 1) or (kept_bytes is not None and kept_bytes < 1):
            raise UsageError("an assembler must keep 1 trajectory and 1 byte or more")
        self.kept = kept
        self._kept_bytes = kept_bytes
        self._closed = closed
        self._trails: OrderedDict[str, Trail] = OrderedDict()
        self._size = 0

    def __len__(self) -> int:
        return len(self._trails)

    def get(self, name: str) -> Trail | None:
        """The open trajectory with this id."""
        return self._trails.get(name)

    def touch(self, trail: Trail) -> None:
        """Marks a trajectory as used just now, and closes others where there are too many."""
        if trail.closed:
            return
        if trail.header.id not in self._trails:
            self._size += trail.size
        self._trails[trail.header.id] = trail
        self._trails.move_to_end(trail.header.id)
        while self._is_full():
            _, oldest = self._trails.popitem(last=False)
            oldest.closed = True
            self._size -= oldest.size
            self._closed(oldest)
            oldest.tip = None  # which points back: without this both wait for the collector

    def grow(self, trail: Trail, messages: Iterable[Message]) -> None:
        """Notes that a trajectory keeps more messages alive."""
        more = ACTION_BYTES + sum(len(message.content or "") for message in messages)
        trail.size += more
        if trail.header.id in self._trails:
            self._size += more

    def _is_full(self) -> bool:
        if self.kept is not None and len(self) > self.kept:
            return True
        return self._kept_bytes is not None and self._size > self._kept_bytes and len(self) > 1
