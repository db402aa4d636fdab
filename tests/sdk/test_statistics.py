"""Intervals and verdicts, against NumPy, SciPy and statsmodels where they have the same thing."""

import random
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from statsmodels.stats.proportion import (  # type: ignore[import-untyped]
    proportion_confint,
    samplesize_confint_proportion,
)

from rwml.errors import UsageError
from rwml.statistics import (
    Interval,
    clustered_bootstrap,
    expanded_tail,
    mean_and_deviation,
    paired_difference,
    pass_hat_k,
    quantile,
    success_rate,
    tasks_for_width,
    trials_for_width,
    verdict,
    wilson,
)


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


@pytest.mark.parametrize("clusters", [6, 11, 31, 1001])
def test_tails_are_hesterbergs(clusters: int) -> None:
    student = float(scipy.stats.t.ppf(0.975, clusters - 1))
    expected = NormalDist().cdf(-student * (clusters / (clusters - 1)) ** 0.5)
    assert expanded_tail(clusters) == pytest.approx(expected, rel=0.01)


@given(st.integers(1, 400).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_is_scipys_and_statsmodels(counts: tuple[int, int]) -> None:
    successes, trials = counts
    found = wilson(successes, trials)
    theirs = scipy.stats.binomtest(successes, trials).proportion_ci(0.95, method="wilson")
    also = proportion_confint(successes, trials, alpha=0.05, method="wilson")
    assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high), abs=1e-9)
    assert (found.low, found.high) == pytest.approx(also, abs=1e-9)
    assert 0 <= found.low <= found.mean <= found.high <= 1
    assert found.mean == successes / trials


@pytest.mark.parametrize(("successes", "trials"), [(1, 0), (0, 0), (3, 2), (-1, 2)])
def test_counts_that_cannot_be_are_refused(successes: int, trials: int) -> None:
    with pytest.raises(UsageError):
        wilson(successes, trials)


def rows(table: dict[str, list[bool]]) -> dict[tuple[str, int], bool]:
    return {(task, n): won for task, wins in table.items() for n, won in enumerate(wins)}


trial_lists = st.lists(st.booleans(), min_size=1, max_size=8)
tables = st.dictionaries(st.text(max_size=3), trial_lists, min_size=1, max_size=12)


@given(tables, st.integers(1, 8))
def test_pass_hat_k_is_the_chance_of_drawing_k_successes(
    table: dict[str, list[bool]], k: int
) -> None:
    enough = [wins for wins in table.values() if len(wins) >= k]
    chances = [scipy.stats.hypergeom.pmf(k, len(wins), sum(wins), k) for wins in enough]
    found = pass_hat_k(rows(table), k)
    assert found == (pytest.approx(np.mean(chances)) if enough else None)


def test_pass_hat_k_of_tau_bench() -> None:
    # two of four trials: 1/2, then C(2,2)/C(4,2) = 1/6; a task that never fails adds 1
    table = rows({"a": [True, False, True, False], "b": [True] * 4})
    assert [pass_hat_k(table, k) for k in (1, 2, 3, 4)] == pytest.approx([3 / 4, 7 / 12, 0.5, 0.5])
    assert pass_hat_k(table, 5) is None
    with pytest.raises(UsageError):
        pass_hat_k(table, 0)


@given(tables)
def test_a_success_rate_has_a_sane_interval(table: dict[str, list[bool]]) -> None:
    found = success_rate(rows(table))
    wins = [won for trials in table.values() for won in trials]
    assert found.mean == pytest.approx(sum(wins) / len(wins))
    assert 0 <= found.low <= found.mean + 1e-12
    assert found.mean - 1e-12 <= found.high <= 1
    assert found.clusters == len(table)


def test_one_trial_per_task_has_wilsons_interval() -> None:
    table = rows({str(n): [n < 7] for n in range(20)})
    assert success_rate(table) == wilson(7, 20)


def test_trials_of_a_task_that_are_all_alike_count_once() -> None:
    four = success_rate(rows({str(n): [n < 20] * 4 for n in range(40)}))
    once = wilson(20, 40)
    assert four.low == pytest.approx(once.low, abs=0.01)
    assert four.high == pytest.approx(once.high, abs=0.01)
    assert success_rate(rows({str(n): [True] * 4 for n in range(40)})) == wilson(40, 40)


@pytest.mark.parametrize("tasks", [5, 10, 40])
@pytest.mark.parametrize("shape", [(1.0, 1.0), (5.0, 0.2)])
def test_clustered_success_covers_the_truth(tasks: int, shape: tuple[float, float]) -> None:
    generator = random.Random(tasks)
    truth, covered, samples = shape[0] / sum(shape), 0, 400
    for _ in range(samples):
        chances = [generator.betavariate(*shape) for _ in range(tasks)]
        table = {str(n): [generator.random() < p for _ in range(4)] for n, p in enumerate(chances)}
        interval = success_rate(rows(table))
        covered += interval.low <= truth <= interval.high
    assert covered / samples >= 0.92


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=20))
def test_deviation_is_numpys(values: list[float]) -> None:
    mean, deviation = mean_and_deviation(values)
    assert mean == pytest.approx(float(np.mean(values)), rel=1e-9, abs=1e-6)
    assert deviation == pytest.approx(float(np.std(values, ddof=1)), rel=1e-6, abs=1e-6)


def test_one_seed_has_no_deviation() -> None:
    assert mean_and_deviation([0.5]) == (0.5, None)
    with pytest.raises(UsageError):
        mean_and_deviation([])


def test_a_paired_difference_is_scipys() -> None:
    generator = np.random.default_rng(1)
    base = {(str(n), 0): float(v) for n, v in enumerate(generator.normal(0.4, 1, 60))}
    gain = generator.normal(0.2, 0.5, 60)
    trained = {row: value + float(g) for (row, value), g in zip(base.items(), gain, strict=True)}
    found = paired_difference(base, trained)
    bootstrap: Any = scipy.stats.bootstrap(
        (gain,), np.mean, method="percentile", n_resamples=10_000, rng=generator
    )
    student = scipy.stats.ttest_1samp(gain, 0).confidence_interval(0.95)
    assert found.mean == pytest.approx(float(gain.mean()))
    low, high = bootstrap.confidence_interval
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.015)
    assert (found.low, found.high) == pytest.approx((student.low, student.high), abs=0.015)


def test_only_rows_that_both_have_are_paired() -> None:
    base = {("a", 0): 0.0, ("b", 0): 1.0, ("c", 0): 0.0}
    trained = {("a", 0): 1.0, ("b", 0): 1.0, ("b", 1): 0.0, ("d", 0): 1.0}
    found = paired_difference(base, trained)
    assert (found.mean, found.clusters) == (0.5, 2)
    with pytest.raises(UsageError, match="no task and trial in common"):
        paired_difference(base, {("a", 1): 1.0})


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.97])
@pytest.mark.parametrize("width", [0.05, 0.1, 0.3])
def test_the_fewest_tasks_for_a_width(rate: float, width: float) -> None:
    tasks = tasks_for_width(width, rate=rate)

    def spread(n: int) -> float:
        bounds: Any = proportion_confint(rate * n, n, alpha=0.05, method="wilson")
        return float(bounds[1] - bounds[0])

    assert spread(tasks) <= width + 1e-9
    assert spread(tasks - 1) > width - 1e-9
    if rate == 0.5:  # where the normal approximation is good
        normal = samplesize_confint_proportion(rate, width / 2)
        assert tasks == pytest.approx(normal, abs=5)


def test_trials_help_as_far_as_they_differ() -> None:
    alone = tasks_for_width(0.2)
    assert tasks_for_width(0.2, trials=4) == alone  # all alike: they are worth one
    assert tasks_for_width(0.2, trials=4, correlation=0.0) == -(-alone // 4)
    assert alone / 4 < tasks_for_width(0.2, trials=4, correlation=0.3) < alone


@pytest.mark.parametrize("correlation", [0.0, 0.2, 0.5])
def test_the_fewest_trials_for_a_width(correlation: float) -> None:
    trials = trials_for_width(0.15, tasks=100, correlation=correlation)
    assert trials is not None
    assert tasks_for_width(0.15, trials=trials, correlation=correlation) <= 100
    assert trials > 1
    assert tasks_for_width(0.15, trials=trials - 1, correlation=correlation) > 100


def test_too_few_tasks_are_never_enough() -> None:
    assert trials_for_width(0.1, tasks=20, correlation=0.5) is None
    assert trials_for_width(0.3, tasks=500) == 1


@pytest.mark.parametrize(
    "arguments",
    [{"width": 0.0}, {"width": 1.0}, {"rate": 1.1}, {"trials": 0}, {"correlation": -0.1}],
)
def test_widths_that_cannot_be_are_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        tasks_for_width(**{"width": 0.1, **arguments})
    with pytest.raises(UsageError):
        trials_for_width(0.1, tasks=0)


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
