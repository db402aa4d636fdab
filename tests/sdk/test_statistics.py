"""Intervals and verdicts, against NumPy where it has the same thing."""

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rwml.errors import UsageError
from rwml.statistics import Interval, clustered_bootstrap, quantile, verdict


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


def test_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    generator = random.Random(1)
    covered = 0
    for trial in range(200):
        clusters, values = [], []
        for task in range(40):
            shift = generator.gauss(0.3, 1.0)
            for _ in range(3):
                clusters.append(task)
                values.append(shift + generator.gauss(0, 0.2))
        interval = clustered_bootstrap(values, clusters, samples=300, seed=trial)
        covered += interval.low <= 0.3 <= interval.high
    assert 0.87 <= covered / 200 <= 0.99


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
    ],
)
def test_words_follow_from_the_interval(low: float, high: float, clusters: int, word: str) -> None:
    assert verdict(Interval((low + high) / 2, low, high, clusters)) == word


def test_lengths_must_agree() -> None:
    with pytest.raises(UsageError, match="one cluster per value"):
        clustered_bootstrap([1.0, 2.0], ["a"])
    with pytest.raises(UsageError):
        clustered_bootstrap([], [])
