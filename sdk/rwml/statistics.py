"""Honest comparisons: intervals first, and words that follow from them.

One place for every evaluation. Pure Python, so that a recording-only install can use it.
"""

from __future__ import annotations

import math
import random
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

from rwml.errors import UsageError

BOOTSTRAP_SAMPLES = 10_000
"""Resamples of a bootstrap interval (ours)."""
CONFIDENCE = 0.95
"""Of every interval."""
MIN_CLUSTERS = 8
"""Fewest tasks from which a difference can be shown (ours)."""

Row = tuple[str, int]
"""A task and one trial of it."""
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


def wilson(successes: int, trials: int) -> Interval:
    """Success rate of independent trials with Wilson's score interval (Wilson 1927).

    It stays within 0 and 1, and says something where all or none succeeded.

    Raises:
        UsageError: there are no trials, or more successes than trials.
    """
    if not 0 <= successes <= trials or trials < 1:
        raise UsageError(f"need 1 or more trials and no more successes: {successes} of {trials}")
    rate, z = successes / trials, _z()
    low, high = _wilson_bounds(rate, trials, z)
    return Interval(mean=rate, low=low, high=high, clusters=trials)


def success_rate(successes: Mapping[Row, bool]) -> Interval:
    """Success rate with the interval that the design allows.

    Wilson's for one trial per task. For several, Wilson's for the effective number of trials: as
    many independent ones as would vary as the tasks do, less what the few tasks leave unknown of
    that (Korn and Graubard 1998; best of those in Dean and Pagano 2015, "Evaluating Confidence
    Interval Methods for Binomial Proportions in Clustered Surveys"). A bootstrap over few tasks
    covers too little where the rate is near 0 or 1.

    Args:
        successes: by task and trial.

    Raises:
        UsageError: there are none.
    """
    of_task = _by_task(successes)
    tasks, trials = len(of_task), len(successes)
    won = sum(successes.values())
    if tasks == trials:
        return wilson(won, trials)
    rate = won / trials
    if won in (0, trials) or tasks == 1:
        worth = float(tasks)  # nothing says how much the trials of a task are alike
    else:
        squares = math.fsum((sum(rows) - rate * len(rows)) ** 2 for rows in of_task.values())
        variance = tasks / (tasks - 1) * squares / trials**2
        worth = min(rate * (1 - rate) / variance, trials) if variance else float(trials)
        worth = max(worth * (_z() / _student(tasks - 1)) ** 2, 1.0)
    low, high = _wilson_bounds(rate, worth, _z())
    return Interval(mean=rate, low=low, high=high, clusters=tasks)


def pass_hat_k(successes: Mapping[Row, bool], k: int) -> float | None:
    """Chance that k trials of a task all succeed, averaged over tasks.

    The unbiased estimate of tau-bench (arXiv 2406.12045, sec. 4): C(c, k) / C(n, k) for a task with
    c successes in n trials. A task with fewer than k trials says nothing about k.

    Args:
        successes: by task and trial.
        k: 1 or more.

    Returns:
        None where no task has k trials.

    Raises:
        UsageError: k is less than 1.
    """
    if k < 1:
        raise UsageError(f"k must be 1 or more, not {k}")
    chances = [
        math.comb(sum(trials), k) / math.comb(len(trials), k)
        for trials in _by_task(successes).values()
        if len(trials) >= k
    ]
    return math.fsum(chances) / len(chances) if chances else None


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and sample standard deviation (n - 1), over seeds say; one value has no deviation.

    Raises:
        UsageError: there are no values.
    """
    if not values:
        raise UsageError("no mean of nothing")
    mean = math.fsum(values) / len(values)
    if len(values) == 1:
        return mean, None
    squares = math.fsum((value - mean) ** 2 for value in values)
    return mean, math.sqrt(squares / (len(values) - 1))


def paired_difference(base: Mapping[Row, float], trained: Mapping[Row, float]) -> Interval:
    """Mean of trained minus base over the rows that both have, with its interval over tasks.

    Pairing by task and trial takes the tasks' difficulty out of the noise.

    Raises:
        UsageError: they have no row in common.
    """
    rows = [row for row in trained if row in base]
    if not rows:
        raise UsageError("the two have no task and trial in common: nothing can be paired")
    differences = [float(trained[row]) - float(base[row]) for row in rows]
    return clustered_bootstrap(differences, [task for task, _ in rows])


def tasks_for_width(
    width: float, *, rate: float = 0.5, trials: int = 1, correlation: float = 1.0
) -> int:
    """Fewest tasks for which the interval of a success rate is no wider than `width`.

    Args:
        width: upper minus lower bound, more than 0 and less than 1.
        rate: expected success rate; 0.5 needs most.
        trials: of each task.
        correlation: of the trials of one task, 0 to 1: k of them are worth k / (1 + (k - 1) r)
            independent ones (Kish 1965, sec. 5.4). At 1, the cautious default, they are worth one.

    Raises:
        UsageError: an argument is out of its range.
    """
    if not 0 < width < 1 or not 0 <= rate <= 1 or trials < 1 or not 0 <= correlation <= 1:
        raise UsageError(
            "need a width between 0 and 1, a rate and a correlation from 0 to 1, and 1 or more "
            f"trials: got {width}, {rate}, {correlation} and {trials}"
        )
    return math.ceil(_trials_for(width, rate) * (1 + (trials - 1) * correlation) / trials)


def trials_for_width(
    width: float, *, tasks: int, rate: float = 0.5, correlation: float = 0.0
) -> int | None:
    """Fewest trials of each of `tasks` tasks for which the interval is no wider than `width`.

    Args:
        width: as in `tasks_for_width`, like the others.
        tasks: that there are.
        rate: expected success rate.
        correlation: of the trials of one task.

    Returns:
        None where no number of trials is enough: the tasks themselves are too few.

    Raises:
        UsageError: an argument is out of its range.
    """
    if tasks < 1:
        raise UsageError(f"need 1 or more tasks, not {tasks}")
    needed = tasks_for_width(width, rate=rate) / tasks
    if needed <= 1:
        tasks_for_width(width, rate=rate, correlation=correlation)  # the range of its arguments
        return 1
    if needed * correlation >= 1:
        return None
    return math.ceil(needed * (1 - correlation) / (1 - needed * correlation))


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
    return NormalDist().cdf(-_student(degrees) * math.sqrt((degrees + 1) / degrees))


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


def _z() -> float:
    return NormalDist().inv_cdf((1 + CONFIDENCE) / 2)


def _student(degrees: int) -> float:
    """The 0.975 quantile of Student's t, by its Cornish-Fisher expansion."""
    z = _z()
    student = z + (z**3 + z) / (4 * degrees)
    student += (5 * z**5 + 16 * z**3 + 3 * z) / (96 * degrees**2)
    return student + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * degrees**3)


def _by_task(successes: Mapping[Row, bool]) -> dict[str, list[bool]]:
    of_task: dict[str, list[bool]] = {}
    for (task, _), success in successes.items():
        of_task.setdefault(task, []).append(success)
    return of_task


def _wilson_bounds(rate: float, trials: float, z: float) -> tuple[float, float]:
    middle = rate + z * z / (2 * trials)
    half = z * math.sqrt(rate * (1 - rate) / trials + z * z / (4 * trials * trials))
    scale = 1 + z * z / trials
    low, high = (middle - half) / scale, (middle + half) / scale
    return (0.0 if rate == 0 else low), (1.0 if rate == 1 else high)


def _trials_for(width: float, rate: float) -> int:
    """Fewest independent trials; the width falls with their number, so it is halved in on."""
    below, above, z = 0, 1, _z()

    def is_enough(trials: int) -> bool:
        low, high = _wilson_bounds(rate, trials, z)
        return high - low <= width

    while not is_enough(above):
        below, above = above, above * 2
    while above - below > 1:
        middle = (below + above) // 2
        below, above = (below, middle) if is_enough(middle) else (middle, above)
    return above
