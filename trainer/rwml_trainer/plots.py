"""Draws a report: ``python -m rwml_trainer.plots report.json report.png``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from rwml.errors import UsageError
from rwml.plotting import Bar, draw_bars, figure

PREDICTORS = ("constant", "copy_last", "base", "warm_start", "trained")


def draw_report(report: dict[str, Any], path: Path) -> None:
    """Draws the reward curve of the training, and the predictors' rewards by kind.

    Args:
        report: the demo's report.
        path: PNG file.
    """
    with figure(path, width=13, height=4.2) as drawn:
        left, right = drawn.subplots(1, 2)
        rewards = report["train"]["reward"]
        known = [(step, reward) for step, reward in enumerate(rewards, 1) if reward is not None]
        left.plot([step for step, _ in known], [reward for _, reward in known], marker="o")
        left.set(title="GRPO: mean reward of each group", xlabel="step", ylabel="reward")
        left.set_ylim(-0.05, 1.05)
        _draw_predictors(right, report["eval"])


def _draw_predictors(axes: Any, results: dict[str, Any]) -> None:
    kinds = sorted(results["constant"]["by_kind"])
    shown = [name for name in PREDICTORS if results.get(name)]
    rows = results["constant"]["by_kind"]
    draw_bars(
        axes,
        [f"all\n{results['rows']} rows", *(f"{kind}\n{rows[kind]['rows']} rows" for kind in kinds)],
        {name.replace("_", " "): _bars(results[name], kinds) for name in shown},
    )
    low, high = results["ci95"]
    minus = " minus ".join(name.replace("_", " ") for name in results["compared"])
    axes.set_title(
        f"Held-out reward\n{minus}: {results['difference']:+.3f} [{low:+.3f}, {high:+.3f}], "
        f"{results['verdict']}",
        fontsize="medium",
    )
    axes.set_ylabel("reward (lines: 95% interval over tasks)")


def _bars(figures: dict[str, Any], kinds: list[str]) -> list[Bar]:
    of_kinds = (Bar(figures["by_kind"][kind]["reward"]) for kind in kinds)
    return [Bar(figures["reward"], *figures["reward_ci95"]), *of_kinds]


def main(arguments: list[str]) -> None:
    """Reads a report and draws it.

    Raises:
        UsageError: not called with two paths.
    """
    if len(arguments) != 2:
        raise UsageError("usage: python -m rwml_trainer.plots report.json report.png")
    report = json.loads(Path(arguments[0]).read_text(encoding="utf-8"))
    draw_report(report, Path(arguments[1]))


if __name__ == "__main__":
    main(sys.argv[1:])
