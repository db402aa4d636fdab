"""Batches on their way to the store: written, or kept on the local disk while it is away.

In order and without doubles: as long as something waits in the spool, what comes later waits behind
it. A batch that neither the store nor the spool takes is held in memory, and the writer takes no
more until it is gone, so that memory stays bounded and nothing that was accepted is lost.
"""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Protocol

from rwml.access import StoreAccess
from rwml.errors import StoreError, StoreUnavailableError
from rwml.redaction import describe
from rwml.spool import Spool, SpoolDamagedError
from rwml.store.batches import Batch

CATCH_UP_S = 0.5
"""How long the writer catches up before it looks at its queue again (ours)."""
ADOPT_S = 60.0
"""How often the files of processes that have ended are looked for (ours)."""


class Count(Protocol):
    """Adds to the recorder's counters."""

    def __call__(self, **more: int) -> None:
        """Adds to each by name."""


class Delivery:
    """Delivers batches. Only for the writer's thread.

    Args:
        store: the way to where they go.
        spool: where they wait; None lets them wait in memory.
        count: told of records ``written``, ``failed`` and ``spooled`` (also less than 0).
        warn: told once of what goes wrong.
    """

    def __init__(
        self, *, store: StoreAccess, spool: Spool | None, count: Count, warn: Callable[..., None]
    ) -> None:
        self._store = store
        self._spool = spool
        self._count = count
        self._warn = warn
        self._held: deque[Batch] = deque()
        self._settled: object = None
        self._next_adoption = 0.0

    @property
    def is_holding(self) -> bool:
        """Whether a batch waits in memory: no more should be delivered before `retry`."""
        return bool(self._held)

    def wait_s(self) -> float | None:
        """Seconds until there is something to do here; None when there is not."""
        if self._held or self._spool:
            return max(0.01, self._store.wait_s)
        if self._spool is not None:  # a process may have left something
            return max(0.01, self._next_adoption - time.monotonic())
        return None

    def deliver(self, batch: Batch) -> None:
        """Takes a batch; afterwards it is written, failed, spooled or held."""
        self._deliver([batch])

    def retry(self) -> None:
        """Tries again what was held or spooled, when it is time; returns soon in any case."""
        now = time.monotonic()
        if self._spool is not None and now >= self._next_adoption:
            self._next_adoption = now + ADOPT_S
            found = self._spool.adopt()
            self._count(accepted=found, spooled=found)
        if self._store.is_away:
            return
        deadline = now + CATCH_UP_S
        while self._catch_up() and time.monotonic() < deadline:
            pass
        held, self._held = self._held, deque()
        self._deliver(held)

    def close(self) -> None:
        """Lets go of the spool's files: another process may catch up. What is held is lost."""
        lost = sum(map(len, self._held))
        self._held.clear()
        self._count(accepted=-lost, dropped=lost)
        if self._spool is not None:
            self._spool.release()

    def _deliver(self, batches: Iterable[Batch]) -> None:
        for batch in batches:
            waits = self._spool or self._held or self._store.is_away
            for left in [batch] if waits else self._write(batch):
                self._keep(left)

    def _keep(self, batch: Batch) -> None:
        if self._spool is not None and not self._held:
            try:
                self._spool.add(batch)
            except StoreError as error:
                self._warn("records wait in memory: %s", describe(error))
                self._store.pause()
            else:
                self._count(spooled=len(batch))
                return
        self._held.append(batch)

    def _catch_up(self) -> bool:
        """Writes the batch that has waited longest; False when there is none to write now."""
        if not self._spool:
            return False
        try:
            found = self._spool.oldest()
            if found is None:
                return False
            token, batch = found
            if token == self._settled:  # it was written, but could not be removed
                left: list[Batch] = []
            else:
                left = self._write(batch, is_late=True)
            if left and left[0] is batch:  # nothing of it: it stays where it is
                return False
            if left:  # the store went away again: the rest keeps its place
                self._spool.replace(token, Batch.joined(left))
                self._count(spooled=sum(map(len, left)) - len(batch))
                return False
            self._settled = token
            self._spool.remove(token)
            self._count(spooled=-len(batch))
        except SpoolDamagedError as error:
            self._warn("%s", error)
            self._count(spooled=-error.records, failed=error.records)
            with contextlib.suppress(StoreError):
                self._spool.remove(error.token)
            return True
        except StoreError as error:
            self._warn("the spool cannot be read: %s", describe(error))
            self._store.pause()
            return False
        return True

    def _write(self, batch: Batch, *, is_late: bool = False) -> list[Batch]:
        """Writes a batch; returns what is left of it as the store is away."""
        try:
            self._store.write(batch, is_late=is_late)
        except StoreUnavailableError as error:
            self._warn("records wait on this machine: %s", describe(error))
            return [batch]
        except Exception as error:  # noqa: BLE001 - whatever it is, the writer must live on
            if len(batch) <= 1:
                self._count(failed=len(batch))
                self._warn("a record could not be written: %s", describe(error))
                return []
            # One record cannot be stored: the others can.
            left: list[Batch] = []
            for single in batch.singles():
                left += [single] if left else self._write(single, is_late=is_late)
            return left
        self._count(written=len(batch))
        return []
