"""Delivers what processes that ended left in the spool of a store, where no recorder runs.

For whoever is about to search the store: what waits on the disk is not in it yet. It is delivered
as a recorder would, and the files of processes that still run are left alone.
"""

from __future__ import annotations

import time

from rwml.access import StoreAccess
from rwml.delivery import Delivery
from rwml.errors import StoreUnavailableError
from rwml.spool import Spool, spool_folder
from rwml.store import Store
from rwml.writer import Counters

PATIENCE_S = 60.0
"""How long a store that others keep busy is tried without any progress (ours)."""
POLL_S = 0.05
"""Between two attempts (ours)."""


def deliver_left(store: Store, *, patience_s: float = PATIENCE_S) -> int:
    """Writes what was left; returns how many records are in the store now.

    Files that were delivered are gone from the disk. A record that the store does not take, or
    that cannot be read, is lost, and a warning is logged.

    Args:
        patience_s: seconds without progress after which it gives up.

    Raises:
        StoreUnavailableError: it gave up; what is left stays in the spool.
    """
    folder = spool_folder(store)
    spool, counters = Spool(folder), Counters()
    access = StoreAccess(store)
    delivery = Delivery(store=access, spool=spool, count=counters.add, warn=counters.warn)
    try:
        delivery.retry()
        left, deadline = spool.records, time.monotonic() + patience_s
        while spool:
            time.sleep(POLL_S)
            delivery.retry()
            if spool.records != left:
                left, deadline = spool.records, time.monotonic() + patience_s
            elif time.monotonic() > deadline:
                raise StoreUnavailableError(
                    f"{left} records that wait in {folder} cannot be written to {store.url} now: "
                    f"try again"
                )
    finally:
        delivery.close()
    return counters.stats.written
