"""Charts of evaluations: success with its 95% interval, over all tasks and per kind."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rwml.plotting import Bar, draw_bars, figure

HEIGHT = 4.2
"""Inches."""


def draw_report(report: Mapping[str, Any], path: Path) -> None:
    """Draws the success rates of one evaluation as PNG.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    rows = {"all": report, **report["by_kind"]}
    bars = [Bar(figures["success_rate"], *(figures["ci95"] or ())) for figures in rows.values()]
    bars[0] = Bar(report["success_rate"], *(report["success_ci95"] or ()))
    title = f"{report['source']}, {report['split']}: {report['agent']}"
    _draw(path, title, rows, {str(report["agent"]): bars})


def draw_comparison(comparison: Mapping[str, Any], path: Path) -> None:
    """Draws the success rates of two evaluations side by side as PNG.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    rows = {"all": comparison, **comparison["by_kind"]}
    after, before = comparison["compared"]
    low, high = comparison["ci95"]
    title = (
        f"{comparison['source']}, {comparison['split']}\n{after} minus {before}: "
        f"{comparison['difference']:+.3f} [{low:+.3f}, {high:+.3f}], {comparison['verdict']}"
    )
    if comparison["bases_differ_in"]:
        title += f"\ndifferent {', '.join(comparison['bases_differ_in'])}"
    series = {
        f"base: {before}": [Bar(f["base"], *f["base_ci95"]) for f in rows.values()],
        f"trained: {after}": [Bar(f["trained"], *f["trained_ci95"]) for f in rows.values()],
    }
    _draw(path, title, rows, series)


def _draw(path: Path, title: str, rows: Mapping[str, Any], series: Mapping[str, list[Bar]]) -> None:
    groups = [f"{name}\n{figures['tasks']} tasks" for name, figures in rows.items()]
    width = max(6.0, 1.5 + len(groups) * (0.9 + 0.7 * len(series)))
    with figure(path, width=width, height=HEIGHT) as drawn:
        axes = drawn.subplots()
        draw_bars(axes, groups, series)
        axes.set_title(title, fontsize="medium")
        axes.set_ylabel("success (lines: 95% interval)")
