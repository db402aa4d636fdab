"""Honest comparisons: intervals first, and words that follow from them.

One place for every evaluation. Pure Python, so that a recording-only install can use it.
"""

from __future__ import annotations

import math
import random
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Literal

from rwml.errors import UsageError

BOOTSTRAP_SAMPLES = 10_000
"""Resamples of a bootstrap interval (ours)."""

Verdict = Literal["improved", "worse", "no difference shown"]


@dataclass(frozen=True)
class Interval:
    """A mean with its 95% interval.

    Attributes:
        mean: of all rows.
        low: lower bound.
        high: upper bound.
        clusters: independent units behind it (tasks); rows of one task are not independent.
    """

    mean: float
    low: float
    high: float
    clusters: int


def clustered_bootstrap(
    values: Sequence[float],
    clusters: Sequence[Hashable],
    *,
    samples: int = BOOTSTRAP_SAMPLES,
    seed: int = 0,
) -> Interval:
    """Mean of `values` with a percentile bootstrap 95% interval over whole clusters.

    Resampling tasks, not rows, keeps rows of one task together: they succeed and fail together,
    and treating them as independent would make the interval too narrow (ours: the paper gives
    means of three runs).

    Args:
        values: one number per row, for example paired differences.
        clusters: the cluster of each row (a task id), same length.

    Raises:
        UsageError: nothing to resample, or the lengths differ.
    """
    if not values or len(values) != len(clusters):
        raise UsageError(
            f"need one cluster per value and at least one: got {len(values)} values "
            f"and {len(clusters)} clusters"
        )
    totals: dict[Hashable, tuple[float, int]] = {}
    for value, cluster in zip(values, clusters, strict=True):
        total, count = totals.get(cluster, (0.0, 0))
        totals[cluster] = (total + value, count + 1)
    pairs = list(totals.values())
    generator = random.Random(seed)  # noqa: S311 - resampling, not security
    means = []
    for _ in range(samples):
        drawn = generator.choices(pairs, k=len(pairs))
        means.append(sum(total for total, _ in drawn) / sum(count for _, count in drawn))
    means.sort()
    return Interval(
        mean=math.fsum(values) / len(values),
        low=quantile(means, 0.025),
        high=quantile(means, 0.975),
        clusters=len(pairs),
    )


def verdict(difference: Interval) -> Verdict:
    """The word that a difference has earned: only an interval that excludes 0 shows one.

    With fewer than two clusters there is nothing to resample, so nothing can be shown.
    """
    if difference.clusters < 2:
        return "no difference shown"
    if difference.low > 0:
        return "improved"
    if difference.high < 0:
        return "worse"
    return "no difference shown"


def quantile(ordered: Sequence[float], share: float) -> float:
    """Quantile of an ordered sequence by linear interpolation (as NumPy's default).

    Raises:
        UsageError: the sequence is empty.
    """
    if not ordered:
        raise UsageError("no quantile of nothing")
    place = share * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)
