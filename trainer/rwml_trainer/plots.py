"""Draws a report: ``python -m rwml_trainer.plots report.json report.png``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from rwml.errors import UsageError
from rwml.extras import require

PREDICTORS = ("constant", "base", "warm_start", "trained")


def draw_report(report: dict[str, Any], path: Path) -> None:
    """Draws the reward curve of the training, and the predictors' rewards by kind.

    Args:
        report: the demo's report.
        path: PNG file.
    """
    require("train", "matplotlib")
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(13, 4.2), layout="constrained")
    rewards = report["train"]["reward"]
    known = [(step, reward) for step, reward in enumerate(rewards, 1) if reward is not None]
    left.plot([step for step, _ in known], [reward for _, reward in known], marker="o")
    left.set(title="GRPO: mean reward of each group", xlabel="step", ylabel="reward")
    left.set_ylim(-0.05, 1.05)
    _draw_predictors(right, report["eval"])
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _draw_predictors(axes: Any, results: dict[str, Any]) -> None:
    kinds = sorted(results["constant"]["by_kind"])
    labels = ["all", *kinds]
    shown = [name for name in PREDICTORS if results.get(name)]
    width = 0.8 / len(shown)
    for place, name in enumerate(shown):
        figures = results[name]
        values = [figures["reward"], *(figures["by_kind"][kind]["reward"] for kind in kinds)]
        low, high = figures["reward_ci95"]
        spots = [x + (place - (len(shown) - 1) / 2) * width for x in range(len(labels))]
        axes.bar(spots, values, width, label=name.replace("_", " "))
        for spot, value, top in zip(spots, values, [high, *values[1:]], strict=True):
            axes.text(spot, top + 0.01, f"{value:.2f}", ha="center", va="bottom", fontsize="small")
        axes.errorbar(spots[0], values[0], [[values[0] - low], [high - values[0]]], color="black")
    rows = results["constant"]["by_kind"]
    axes.set_xticks(
        range(len(labels)),
        [f"all\n{results['rows']} rows", *(f"{kind}\n{rows[kind]['rows']} rows" for kind in kinds)],
    )
    low, high = results["ci95"]
    minus = " minus ".join(name.replace("_", " ") for name in results["compared"])
    axes.set_title(
        f"Held-out reward\n{minus}: {results['difference']:+.3f} [{low:+.3f}, {high:+.3f}], "
        f"{results['verdict']}",
        fontsize="medium",
    )
    axes.set_ylabel("reward (lines: 95% interval over tasks)")
    axes.set_ylim(0, 1.05)
    axes.legend()


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
