"""Pools the evaluations of runs that differ in their seed, and draws their learning curves.

One run of a small model is an anecdote: seeds differ by as much as methods do. So a method is the
mean of its runs: rewards are averaged within a row first, intervals are over tasks, as everywhere
(`rwml.statistics`), and each seed's own difference stands beside (the pooling is ours; the paper
gives means and deviations of three runs, app. B).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import JsonValue

from rwml.errors import DatasetError, ModelError, UsageError
from rwml.statistics import clustered_bootstrap, mean_and_deviation, verdict
from rwml_trainer.runs import read_run
from rwml_trainer.trivial_predictors import TRIVIAL

EVALUATION = "eval"
"""Folder inside a run that ``rwml eval world --out`` is told to write."""
REPORT = "report.json"
AGAINST = "against"
"""How the other method's trained models are called."""
_MODELS = ("base", "warm_start", "trained")
_SEEDLESS = (*TRIVIAL, "base")
"""Predictors that no training changes: the first run's evaluation is enough."""


@dataclass(frozen=True)
class Method:
    """A predictor's rewards in the evaluation of each run.

    Attributes:
        name: of the predictor.
        tasks: of each row.
        by_seed: for each run the rewards of its rows, in the same order everywhere.
    """

    name: str
    tasks: Sequence[str]
    by_seed: Sequence[Sequence[float]]

    @cached_property
    def rewards(self) -> list[float]:
        """Of each row the mean over runs."""
        return [sum(column) / len(column) for column in zip(*self.by_seed, strict=True)]

    def figures(self) -> dict[str, JsonValue]:
        """Mean reward, its interval over tasks, and what each seed had."""
        interval = clustered_bootstrap(self.rewards, self.tasks)
        means = [sum(rewards) / len(rewards) for rewards in self.by_seed]
        return {
            "reward": interval.mean,
            "ci95": [interval.low, interval.high],
            "by_seed": list[JsonValue](means),
            "deviation": mean_and_deviation(means)[1],
        }


def pool(runs: Sequence[Path], against: Sequence[Path] = ()) -> dict[str, JsonValue]:
    """Figures of each predictor over all runs, and what the training changed.

    Args:
        runs: run folders that differ in their seed, each with the output of ``rwml eval world`` on
            the same rows in its folder ``eval``.
        against: the same of another method, such as WM SFT; its runs are paired by row with the
            mean of these, not by seed.

    Returns:
        ``rows``, ``tasks``, ``seeds``; ``predictors``: figures by name; ``comparisons``: paired
        differences of the trained model against its warm start, the other method, base, and the
        best trivial predictor, each with its interval over tasks, its verdict, and ``by_seed``,
        where seeds can be paired; ``curves``: mean reward of each GRPO step, by run.

    Raises:
        ModelError: a folder is no finished run, or has not been evaluated.
        DatasetError: the runs were not evaluated on the same rows, with the same settings.
        UsageError: two runs of a method have the same seed.
    """
    read = [_Evaluation(run) for run in runs]
    others = [_Evaluation(run) for run in against]
    for evaluation in (*read[1:], *others):
        read[0].check_rows(evaluation)
    for method in (read, others):
        _check_seeds(method)
    names = [*TRIVIAL, *_MODELS]
    methods = {
        name: _method(name, name, read[:1] if name in _SEEDLESS else read)
        for name in names
        if read[0].has(name)
    }
    if others:
        methods[AGAINST] = _method(AGAINST, "trained", others)
    trained = methods["trained"]
    floor = max((methods[name] for name in TRIVIAL), key=lambda each: sum(each.rewards))
    baselines = [methods[name] for name in ("warm_start", AGAINST, "base") if name in methods]
    return {
        "rows": len(trained.tasks),
        "tasks": len(set(trained.tasks)),
        "seeds": [evaluation.seed for evaluation in read],
        "best_trivial": floor.name,
        "predictors": {name: method.figures() for name, method in methods.items()},
        "comparisons": [compare(trained, method) for method in (*baselines, floor)],
        "curves": {str(run): list[JsonValue](read_run(run).rewards) for run in runs},
    }


def compare(trained: Method, baseline: Method) -> dict[str, JsonValue]:
    """The paired difference of two methods' means, with its interval and verdict.

    A seed's own difference is given where both have as many runs and the pairs mean something:
    models of one run, or a predictor that does not depend on it.
    """
    pairs = zip(trained.rewards, baseline.rewards, strict=True)
    interval = clustered_bootstrap([a - b for a, b in pairs], trained.tasks)
    by_seed: list[JsonValue] = []
    if baseline.name != AGAINST:
        seedless = baseline.name in _SEEDLESS
        others = list(baseline.by_seed) * (len(trained.by_seed) if seedless else 1)
        for ours, theirs in zip(trained.by_seed, others, strict=True):
            by_seed.append((sum(ours) - sum(theirs)) / len(ours))
    return {
        "compared": [trained.name, baseline.name],
        "difference": interval.mean,
        "ci95": [interval.low, interval.high],
        "by_seed": by_seed or None,
        "verdict": verdict(interval),
    }


def draw_seeds(report: Mapping[str, Any], path: Path, *, against: str) -> None:
    """Draws the training's reward, each run and their mean, beside the held-out rewards.

    Args:
        report: what `pool` returns.
        path: PNG file.
        against: what the other method is called in the legend.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    from rwml.plotting import Bar, draw_bars, figure

    with figure(path, width=13, height=4.6) as drawn:
        left, right = drawn.subplots(1, 2)
        smooth = [smoothed(rewards) for rewards in report["curves"].values()]
        for curve in smooth:
            left.plot(range(1, len(curve) + 1), curve, color="tab:blue", alpha=0.35, linewidth=1)
        mean = [sum(step) / len(step) for step in zip(*smooth, strict=False)]
        left.plot(range(1, len(mean) + 1), mean, color="tab:blue", linewidth=2)
        left.set(
            title=f"GRPO: reward of sampled completions, mean of {WINDOW} steps, by seed",
            xlabel="step",
            ylabel="reward",
            ylim=(-0.02, 1.02),
        )
        bars = {
            (against if name == AGAINST else name.replace("_", " ")): [
                Bar(figures["reward"], *figures["ci95"])
            ]
            for name, figures in report["predictors"].items()
        }
        rows = f"{report['rows']} held-out rows, {len(report['seeds'])} seeds"
        draw_bars(right, [rows], bars)
        first = report["comparisons"][0]
        low, high = first["ci95"]
        minus = " minus ".join(name.replace("_", " ") for name in first["compared"])
        right.set_title(
            f"Held-out reward\n{minus}: {first['difference']:+.3f} [{low:+.3f}, {high:+.3f}], "
            f"{first['verdict']}",
            fontsize="medium",
        )
        right.set_ylabel("reward (lines: 95% interval over tasks)")


WINDOW = 20
"""Steps of the running mean in the plot (ours); fewer at the start."""


def smoothed(rewards: Sequence[float | None]) -> list[float]:
    """The running mean at each step; NaN, which a plot leaves out, where nothing was scored."""
    means = []
    for place in range(1, len(rewards) + 1):
        window = rewards[max(0, place - WINDOW) : place]
        known = [reward for reward in window if reward is not None]
        means.append(sum(known) / len(known) if known else math.nan)
    return means


class _Evaluation:
    """What ``rwml eval world`` left in a run's folder."""

    def __init__(self, run: Path) -> None:
        self.run = run
        self.seed = read_run(run).recipe.get("seed")
        self._folder = run / EVALUATION
        if not self.has("trained"):
            raise ModelError(
                f"{run} has not been evaluated: call 'rwml eval world DATASET --run {run} "
                f"--out {self._folder}'"
            )
        self._report = self._read_report()
        self.tasks: dict[str, str] = {}
        self.states: dict[str, str] = {}
        for line in self._lines("trained"):
            self.tasks[line["id"]] = line["task"]
            self.states[line["id"]] = line["next_state"]

    def has(self, predictor: str) -> bool:
        """Whether the predictor was evaluated."""
        return (self._folder / f"{predictor}.jsonl").is_file()

    def check_rows(self, other: _Evaluation) -> None:
        """Refuses evaluations that could not be paired."""
        if self.states != other.states:
            raise DatasetError(
                f"{self.run} and {other.run} were evaluated on other rows: evaluate both on one "
                f"dataset with the same --rows"
            )
        if self._report["settings"] != other._report["settings"]:
            raise DatasetError(
                f"{self.run} and {other.run} were evaluated with other settings of reward or "
                f"sampling ({self._folder / REPORT}): evaluate both with one recipe"
            )

    def rewards(self, predictor: str) -> list[float]:
        """Of each row, in the order of the first evaluation's; the mean where it has seeds."""
        if not self.has(predictor) or predictor not in self._report:  # else it is of an older one
            raise ModelError(f"{self.run} was evaluated without {predictor}: evaluate it again")
        found: dict[str, list[float]] = {name: [] for name in sorted(self.tasks)}
        lines = self._lines(predictor)
        if {line["id"]: line["next_state"] for line in lines} != self.states:
            raise ModelError(
                f"{predictor} of {self.run} was evaluated on other rows than trained, earlier: "
                f"evaluate it again"
            )
        for line in lines:
            found[line["id"]].append(line["reward"])
        return [sum(rewards) / len(rewards) for rewards in found.values()]

    def _read_report(self) -> dict[str, Any]:
        path = self._folder / REPORT
        try:
            report = json.loads(path.read_text(encoding="utf-8"))
            return {**report, "settings": report["settings"]}
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise ModelError(
                f"{path} is missing, not whole, or of an older version, which noted no settings: "
                f"evaluate {self.run} again"
            ) from error

    def _lines(self, predictor: str) -> list[dict[str, Any]]:
        path = self._folder / f"{predictor}.jsonl"
        try:
            lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
            return [line for line in lines if line["task"] is not None]
        except (ValueError, KeyError, TypeError) as error:
            raise ModelError(f"{path} is not whole: evaluate {self.run} again") from error


def _check_seeds(evaluations: Sequence[_Evaluation]) -> None:
    """Refuses runs of one seed: they would make differences look smaller than they are."""
    known: dict[Any, Path] = {}
    for evaluation in evaluations:
        if evaluation.seed in known:
            raise UsageError(
                f"{known[evaluation.seed]} and {evaluation.run} have one seed "
                f"({evaluation.seed}): one of them is enough"
            )
        known[evaluation.seed] = evaluation.run


def _method(name: str, predictor: str, evaluations: Sequence[_Evaluation]) -> Method:
    tasks = evaluations[0].tasks
    return Method(
        name=name,
        tasks=[tasks[row] for row in sorted(tasks)],
        by_seed=[evaluation.rewards(predictor) for evaluation in evaluations],
    )
