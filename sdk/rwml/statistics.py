"""Honest comparisons: intervals first, and words that follow from them.

One place for every evaluation. Pure Python, so that a recording-only install can use it.
"""

from __future__ import annotations

import math
import random
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

from rwml.errors import UsageError

BOOTSTRAP_SAMPLES = 10_000
"""Resamples of a bootstrap interval (ours)."""
MIN_CLUSTERS = 8
"""Fewest tasks from which a difference can be shown (ours)."""

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
    """Mean of `values` with a bootstrap 95% interval over whole clusters.

    Resampling tasks, not rows, keeps rows of one task together: they succeed and fail together,
    and treating them as independent would make the interval too narrow (ours: the paper gives
    means of three runs). The plain percentile interval is too narrow with few clusters; its
    percentiles are expanded as in Hesterberg, "What Teachers Should Know About the Bootstrap"
    (2015), sec. 5.3, so that it is about as wide as a t interval.

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
    tail = expanded_tail(len(pairs))
    return Interval(
        mean=math.fsum(values) / len(values),
        low=quantile(means, tail),
        high=quantile(means, 1 - tail),
        clusters=len(pairs),
    )


def verdict(difference: Interval) -> Verdict:
    """The word that a difference has earned: only an interval that excludes 0 shows one.

    With fewer than `MIN_CLUSTERS` tasks a bootstrap has too little to resample, so nothing is
    shown, whatever the interval.
    """
    if difference.clusters < MIN_CLUSTERS:
        return "no difference shown"
    if difference.low > 0:
        return "improved"
    if difference.high < 0:
        return "worse"
    return "no difference shown"


def expanded_tail(clusters: int) -> float:
    """Share of bootstrap means to leave out on each side for a 95% interval.

    ``Phi(-sqrt(n / (n - 1)) * t)`` with t the 0.975 quantile of Student's t with n - 1 degrees of
    freedom (Hesterberg 2015, sec. 5.3), by the Cornish-Fisher expansion of t, which is good to
    three digits from 5 degrees of freedom on.
    """
    degrees = max(clusters - 1, 1)
    normal = NormalDist()
    z = normal.inv_cdf(0.975)
    student = z + (z**3 + z) / (4 * degrees)
    student += (5 * z**5 + 16 * z**3 + 3 * z) / (96 * degrees**2)
    student += (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * degrees**3)
    return normal.cdf(-student * math.sqrt((degrees + 1) / degrees))


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
