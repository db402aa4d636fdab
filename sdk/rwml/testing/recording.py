"""What a recorder has recorded, for a test to look at."""

from __future__ import annotations

import time

from rwml.instrumentation import Instrumentation
from rwml.recorder import Recorder
from rwml.schema import Trajectory

POLL_S = 0.02
"""Between two looks at a recorder whose store is away (ours)."""


def recorded(recorder: Recorder | Instrumentation, *, timeout_s: float = 30.0) -> list[Trajectory]:
    """Waits until everything is stored, and returns the trajectories in order of id.

    Args:
        recorder: a recorder, or what `rwml.instrument` returned.
        timeout_s: how long to wait.

    Raises:
        AssertionError: something was not stored; it says what.
    """
    if isinstance(recorder, Instrumentation):
        recorder = recorder.recorder
    deadline = time.monotonic() + timeout_s
    while not recorder.flush(max(0.0, deadline - time.monotonic())):
        if recorder.stats.failed or time.monotonic() >= deadline:
            raise AssertionError(f"not everything was stored: {recorder.stats}")
        time.sleep(POLL_S)  # the store was away: the recorder tries again by itself
    return list(recorder.store.trajectories())
