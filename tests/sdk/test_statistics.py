"""Intervals and verdicts, against NumPy where it has the same thing."""

import random
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rwml.errors import UsageError
from rwml.statistics import Interval, clustered_bootstrap, expanded_tail, quantile, verdict


@given(
    st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=50),
    st.floats(0, 1),
)
def test_quantile_is_numpys(values: list[float], share: float) -> None:
    expected = float(np.quantile(values, share))
    assert quantile(sorted(values), share) == pytest.approx(expected, rel=1e-9, abs=1e-6)


def test_quantile_of_nothing_is_refused() -> None:
    with pytest.raises(UsageError):
        quantile([], 0.5)


def coverage(tasks: int, trials: int) -> float:
    """Share of 95% intervals that hold the truth, over samples with correlated rows."""
    generator = random.Random(tasks)
    covered = 0
    for trial in range(trials):
        clusters, values = [], []
        for task in range(tasks):
            shift = generator.gauss(0.3, 1.0)
            for _ in range(3):
                clusters.append(task)
                values.append(shift + generator.gauss(0, 0.2))
        interval = clustered_bootstrap(values, clusters, samples=1000, seed=trial)
        covered += interval.low <= 0.3 <= interval.high
    return covered / trials


@pytest.mark.parametrize("tasks", [8, 20, 40])
def test_interval_covers_the_truth_about_as_often_as_it_says(tasks: int) -> None:
    assert 0.92 <= coverage(tasks, trials=400) <= 0.985


def test_tails_are_hesterbergs() -> None:
    # 0.975 quantiles of Student's t, from its tables
    for clusters, student in ((6, 2.5706), (11, 2.2281), (31, 2.0423), (1001, 1.9623)):
        expected = NormalDist().cdf(-student * (clusters / (clusters - 1)) ** 0.5)
        assert expanded_tail(clusters) == pytest.approx(expected, rel=0.01)


def test_rows_of_one_task_do_not_narrow_the_interval() -> None:
    values = [0.0, 1.0, 0.0, 1.0, 1.0, 0.0]
    once = clustered_bootstrap(values, range(6))
    repeated = clustered_bootstrap(values * 10, [*range(6)] * 10)
    independent = clustered_bootstrap(values * 10, range(60))
    assert repeated.high - repeated.low == pytest.approx(once.high - once.low, abs=0.02)
    assert independent.high - independent.low < 0.5 * (once.high - once.low)


def test_the_same_seed_gives_the_same_interval() -> None:
    values = [random.Random(3).random() for _ in range(30)]
    assert clustered_bootstrap(values, range(30)) == clustered_bootstrap(values, range(30))


@pytest.mark.parametrize(
    ("low", "high", "clusters", "word"),
    [
        (0.01, 0.2, 10, "improved"),
        (-0.2, -0.01, 10, "worse"),
        (-0.1, 0.2, 10, "no difference shown"),
        (0.0, 0.2, 10, "no difference shown"),
        (0.3, 0.3, 1, "no difference shown"),
        (0.3, 0.4, 7, "no difference shown"),
    ],
)
def test_words_follow_from_the_interval(low: float, high: float, clusters: int, word: str) -> None:
    assert verdict(Interval((low + high) / 2, low, high, clusters)) == word


def test_lengths_must_agree() -> None:
    with pytest.raises(UsageError, match="one cluster per value"):
        clustered_bootstrap([1.0, 2.0], ["a"])
    with pytest.raises(UsageError):
        clustered_bootstrap([], [])
