"""Tells whether a world model fits recorded traffic worse than it did: a test with a known rate.

Surprises of one task or thread are not independent, so whole groups are permuted between the
reference period and the one that is looked at (`scipy.stats.permutation_test`, which needs no
distribution and counts ties right). Holm's correction (1979) makes the stated rate that of the
whole look: over traffic that did not change, at most that share of looks raises any alarm at all.
It is over all tools that could be tested: which of them are is decided by the reference period that
the test uses, so the others count as ones that did not change. What is tested is that surprise has
risen.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from rwml.extras import require
from rwml.statistics import BOOTSTRAP_SAMPLES, MIN_CLUSTERS

FALSE_ALARMS = 0.01
"""Share of looks at unchanged traffic that raise an alarm, at most (ours)."""
MIN_SHIFT = 0.05
"""Rises of mean surprise that are smaller raise no alarm, however certain they are (ours)."""
_BATCH = 1_000


@dataclass(frozen=True)
class Group:
    """Surprises of one task or thread.

    Attributes:
        total: their sum.
        count: how many there are.
    """

    total: float
    count: int


@dataclass(frozen=True)
class Shift:
    """How much more surprising a tool has become.

    Attributes:
        shift: mean surprise now minus that of the reference period.
        p_value: chance of a shift as large, had nothing changed; None where there are too few
            tasks or threads to tell.
        is_alarm: whether it is certain enough among all that were tested, and large enough.
    """

    shift: float
    p_value: float | None
    is_alarm: bool


def mean_surprise(groups: Iterable[Group]) -> float | None:
    """Mean over all transitions of the groups; None where there are none."""
    found = list(groups)
    count = sum(group.count for group in found)
    return sum(group.total for group in found) / count if count else None


def find_shifts(
    samples: Mapping[str, tuple[Sequence[Group], Sequence[Group]]],
    *,
    untested: Collection[str] = (),
    false_alarms: float = FALSE_ALARMS,
    min_shift: float = MIN_SHIFT,
    resamples: int = BOOTSTRAP_SAMPLES,
    seed: int = 0,
) -> dict[str, Shift]:
    """Tests tools, and corrects for how many there are.

    Args:
        samples: by tool, the groups of the reference period and those of now.
        untested: tools that are not tested but counted, as if their p-values were 1.
        false_alarms: share of looks at unchanged traffic that raise any alarm, at most.
        min_shift: smallest rise of mean surprise that is worth an alarm.
        resamples: permutations of each test at least; more where the correction needs them.
        seed: of the permutations.

    Raises:
        MissingExtraError: scipy is not installed.
    """
    known = {name: pair for name, pair in samples.items() if min(map(len, pair)) >= MIN_CLUSTERS}
    # The smallest p-value, 1 / (resamples + 1), must lie well below the strictest level.
    wanted = max(resamples, round(10 * len(known) / false_alarms))
    values = {
        name: _p_value(reference, now, resamples=wanted, seed=seed)
        for name, (reference, now) in known.items()
        if name not in untested
    }
    certain = _holm(values, false_alarms, tests=len(known))
    shifts: dict[str, Shift] = {}
    for name, (reference, now) in samples.items():
        before, after = mean_surprise(reference), mean_surprise(now)
        if before is None or after is None:
            continue
        is_alarm = name in certain and after - before >= min_shift
        shifts[name] = Shift(after - before, values.get(name), is_alarm)
    return shifts


def _holm(values: Mapping[str, float], rate: float, *, tests: int) -> set[str]:
    """Holm's step-down procedure: which hypotheses of no change are given up.

    Args:
        values: p-values; those that are not among them are 1.
        rate: that is kept.
        tests: number of p-values altogether.
    """
    given_up: set[str] = set()
    for place, (name, value) in enumerate(sorted(values.items(), key=lambda item: item[1])):
        if value > rate / (tests - place):
            break
        given_up.add(name)
    return given_up


def _p_value(
    reference: Sequence[Group], now: Sequence[Group], *, resamples: int, seed: int
) -> float:
    require("world", "numpy", "scipy")
    import numpy as np
    from scipy.stats import permutation_test

    groups = [*reference, *now]
    totals = np.array([group.total for group in groups])
    counts = np.array([group.count for group in groups])

    def rise(after: np.ndarray, before: np.ndarray, axis: int) -> np.ndarray:
        means = [
            totals[places].sum(axis=axis) / counts[places].sum(axis=axis)
            for places in (after, before)
        ]
        return means[0] - means[1]

    places = np.arange(len(groups))
    result = permutation_test(
        (places[len(reference) :], places[: len(reference)]),
        rise,
        permutation_type="independent",
        alternative="greater",
        vectorized=True,
        n_resamples=resamples,
        batch=_BATCH,
        rng=np.random.default_rng(seed),
    )
    return float(result.pvalue)
