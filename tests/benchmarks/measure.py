"""Timing by alternation: ours and the baseline take turns, and the medians are compared."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

ROUNDS = 5


@dataclass(frozen=True)
class Result:
    """One figure; `ratio` is value / baseline, both in `unit`."""

    name: str
    value: float
    unit: str
    baseline: float
    ratio: float


def peak_mib() -> float:
    """Most memory that this process has held since it began, or since the peak was reset.

    Not ``ru_maxrss``, which a process takes over from the one that started it.
    """
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def rates(
    name: str,
    *,
    ours: Callable[[], None],
    baseline: Callable[[], None],
    units: int,
    unit: str,
    rounds: int = ROUNDS,
) -> Result:
    """Median rate of both in units per second; the two take turns, so that noise hits both."""
    times: dict[str, list[float]] = {"ours": [], "baseline": []}
    for _ in range(rounds):
        for key, work in (("ours", ours), ("baseline", baseline)):
            started = time.perf_counter()
            work()
            times[key].append(time.perf_counter() - started)
    value, base = (units / statistics.median(times[key]) for key in ("ours", "baseline"))
    return Result(name=name, value=value, unit=unit, baseline=base, ratio=value / base)
