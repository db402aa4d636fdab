"""Why a store holds less than one expects: findings, each with what to do about it.

Looks at the store, at the environment of this process and at what is installed. It changes
nothing, makes no store, and reads a bounded number of trajectories in full.
"""

from __future__ import annotations

from collections.abc import Mapping

from rwml.diagnosis.contents import look_at_contents
from rwml.diagnosis.findings import Finding, Status
from rwml.diagnosis.machine import (
    Spooled,
    count_spooled,
    find_versions,
    look_at_environment,
    look_at_keys,
    look_at_spool,
    look_at_sqlite,
    look_at_versions,
)
from rwml.store import Counts, Store

__all__ = [
    "Finding",
    "Spooled",
    "Status",
    "count_spooled",
    "diagnose",
    "find_versions",
    "look_at_environment",
]


def diagnose(
    store: Store, counts: Counts, environ: Mapping[str, str] | None = None
) -> list[Finding]:
    """Looks at everything.

    Args:
        store: an open store.
        counts: of it.
        environ: environment variables; by default those of this process.

    Raises:
        StoreError: the store cannot be read.
    """
    return [
        *look_at_versions(),
        *look_at_sqlite(store),
        *look_at_environment(store.url, environ, is_empty=not counts.transitions),
        *look_at_spool(store),
        *look_at_keys(store),
        *look_at_contents(store, counts),
    ]
