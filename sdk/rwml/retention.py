"""How long recorded traffic is kept: by age, and by the size of the store.

Limits are enforced bit by bit in the background, so that nobody who writes waits for long, and
never on what may still be being recorded. What is removed is counted. Retention keeps a store
small and old traffic out of it; to wipe somebody's bytes from its files there is `Store.forget`.
Source: ours.
"""

from __future__ import annotations

import itertools
import logging
import math
import random
import re
import threading
import time
from dataclasses import dataclass

from rwml.errors import UsageError
from rwml.redaction import describe
from rwml.store import Store
from rwml.store.retention import (
    Limits,
    Removed,
    give_back,
    is_server,
    plan_removal,
    remove_batch,
    remove_lost,
    used_bytes,
)

logger = logging.getLogger("rwml")

FRESH_S = 600.0
"""What was written in this time stays, whatever the limits: it may still be growing (ours)."""
PAUSE_S = 0.1
"""Between two transactions, for those who wait to write; they poll the lock (ours)."""
FIRST_SWEEP_S = 30.0
"""When the limits are enforced first: not while a program starts, nor in a short one (ours)."""
SWEEP_S = 900.0
"""How often the limits are enforced after that (ours)."""
STOP_TIMEOUT_S = 1.0
"""How long stopping waits for a transaction that is under way (ours)."""

_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*([smhdw])", re.IGNORECASE)
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b", re.IGNORECASE)
_POWER = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}


def parse_duration(text: str) -> float:
    """Seconds of a text such as ``30d``, ``12h``, ``90m``, ``45s`` or ``2w``.

    Raises:
        UsageError: it is no such text, or no time at all.
    """
    match = _DURATION.fullmatch(text.strip())
    seconds = float(match[1]) * _SECONDS[match[2].lower()] if match else 0.0
    if not 0 < seconds < math.inf:
        raise UsageError(f"{text[:40]!r} is no duration: say 30d, 12h, 90m or 45s")
    return seconds


def parse_size(text: str) -> int:
    """Bytes of a text such as ``5GB`` (10^9) or ``512MiB`` (2^20).

    Raises:
        UsageError: it is no such text, or no byte at all.
    """
    match = _SIZE.fullmatch(text.strip())
    size = 0.0
    if match:
        base = 1024 if match[3] else 1000
        size = float(match[1]) * base ** _POWER[match[2].lower()]
    if not 1 <= size < math.inf:
        raise UsageError(f"{text[:40]!r} is no size: say 5GB or 512MiB")
    return int(size)


@dataclass(frozen=True)
class Pruned:
    """What enforcing the limits did.

    Attributes:
        trajectories: how many were removed.
        steps: how many steps went, with them or left over from others.
        bytes_before: bytes that the data needed (for PostgreSQL an estimate of the live rows).
        bytes_after: the same afterwards. Above the limit where the rest may still be growing.
    """

    trajectories: int
    steps: int
    bytes_before: int
    bytes_after: int


@dataclass(frozen=True, kw_only=True)
class Retention:
    """How long trajectories are kept.

    Attributes:
        ttl_s: seconds since a trajectory was last written, after which it is removed; None keeps
            it for any time.
        max_bytes: bytes that the store's data may need; above, what was not written for longest
            is removed. None allows any size.

    Raises:
        UsageError: a limit is not above 0.
    """

    ttl_s: float | None = None
    max_bytes: int | None = None

    def __post_init__(self) -> None:
        for name, value in (("ttl_s", self.ttl_s), ("max_bytes", self.max_bytes)):
            is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if value is not None and not (is_number and 0 < value < math.inf):
                raise UsageError(f"{name} must be a number above 0, or None, not {value!r}")

    @classmethod
    def parse(cls, ttl: str | None = None, max_size: str | None = None) -> Retention:
        """Reads limits as people write them.

        Args:
            ttl: such as ``30d``; see `parse_duration`.
            max_size: such as ``5GB``; see `parse_size`.

        Raises:
            UsageError: one cannot be read.
        """
        return cls(
            ttl_s=None if ttl is None else parse_duration(ttl),
            max_bytes=None if max_size is None else parse_size(max_size),
        )

    def plan(self, store: Store) -> Pruned:
        """What `enforce` would do now, about; nothing is changed."""
        before = used_bytes(store)
        found = plan_removal(store, self._limits())
        return Pruned(found.trajectories, found.steps, before, max(0, before - found.bytes))

    def enforce(
        self, store: Store, *, stop: threading.Event | None = None, vacuum: bool = True
    ) -> Pruned:
        """Removes what is beyond the limits, the oldest first, and gives its space back.

        In small transactions with pauses between them; several processes may do it at once.

        Args:
            store: the store; others may write to it meanwhile.
            stop: when set, no further transaction is begun.
            vacuum: False leaves dead rows of PostgreSQL to its own autovacuum. Vacuuming takes
                long, and a fork of this process would wait for it.

        Raises:
            StoreError: the database refused; what was removed until then stays removed.
        """
        stop = stop or threading.Event()
        limits = self._limits()
        before = used_bytes(store)
        total = Removed()
        while not stop.is_set():
            removed = remove_batch(store, limits)
            if not removed.trajectories:
                break
            total += removed
            stop.wait(PAUSE_S)
        if not stop.is_set():
            total += Removed(steps=remove_lost(store, limits))
        has_more = total != Removed() and vacuum if is_server(store) else True
        while has_more and not stop.is_set():
            has_more = give_back(store)
            stop.wait(PAUSE_S if has_more else 0)
        return Pruned(total.trajectories, total.steps, before, used_bytes(store))

    def _limits(self) -> Limits:
        now = time.time()
        fresh = now - FRESH_S
        expired = None if self.ttl_s is None else min(now - self.ttl_s, fresh)
        return Limits(expired=expired, max_bytes=self.max_bytes, fresh=fresh)


class Sweeper:
    """Enforces a retention in a thread of its own, again and again, until it is stopped.

    It raises nothing: what goes wrong is told once, and tried again the next time. After a fork
    the child has no thread: it makes a sweeper of its own.

    Args:
        retention: the limits.
        store: what they hold for; it is not closed.
        first_s: seconds until the first sweep.
        every_s: seconds between two sweeps. Up to a tenth is added to each pause by chance, so
            that processes that were started together do not sweep together.

    Attributes:
        removed: how many trajectories it has removed.
    """

    def __init__(
        self,
        *,
        retention: Retention,
        store: Store,
        first_s: float = FIRST_SWEEP_S,
        every_s: float = SWEEP_S,
    ) -> None:
        self.removed = 0
        self._retention = retention
        self._store = store
        self._pauses_s = itertools.chain((first_s,), itertools.repeat(every_s))
        self._stop = threading.Event()
        self._has_warned = False
        self._thread = threading.Thread(target=self._run, name="rwml-retention", daemon=True)
        self._thread.start()

    def stop(self, timeout_s: float = STOP_TIMEOUT_S) -> bool:
        """Begins no further transaction; returns whether the last one ended in time."""
        self._stop.set()
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        for pause_s in self._pauses_s:
            if self._stop.wait(pause_s * random.uniform(1.0, 1.1)):  # noqa: S311 - no secret
                return
            try:
                self._sweep()
            except Exception as error:  # noqa: BLE001 - the host program's work goes on
                if not self._has_warned:
                    self._has_warned = True
                    logger.warning("rwml: retention could not be enforced: %s", describe(error))

    def _sweep(self) -> None:
        pruned = self._retention.enforce(self._store, stop=self._stop, vacuum=False)
        self.removed += pruned.trajectories
        if pruned.trajectories or pruned.steps:
            logger.info(
                "rwml: retention removed %d trajectories with %d steps",
                pruned.trajectories,
                pruned.steps,
            )
