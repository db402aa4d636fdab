"""Finds the thresholds of the gap for a dataset, and shows the curve behind them.

The data-stage threshold calls a wanted share of samples easy; that for training follows from it by
the paper's rule (RWML app. B.1, C.1). Nothing is changed: a recipe is told by whoever reads it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from pydantic import JsonValue

from rwml.errors import UsageError
from rwml.files import whole_file
from rwml.plotting import figure
from rwml_trainer.filtering.measuring import Measured
from rwml_trainer.filtering.thresholds import (
    LENIENT,
    STRICT,
    choose_tau_d,
    easy_share,
    grid,
    training_tau_d,
)

By = Literal["kind", "tool"]
MIN_ROWS = 20
"""A part with fewer rows gets no threshold of its own (ours)."""


def calibrate(measured: Sequence[Measured], *, wanted: float, by: By) -> dict[str, JsonValue]:
    """Thresholds of all rows, and of each part that has enough of them.

    Args:
        measured: training rows with their critical gaps.
        wanted: share of easy samples.
        by: what parts the rows are shown in.

    Returns:
        ``all`` and ``parts``, each with rows, ``tau_d``, ``training_tau_d``, ``easy_share`` (at
        ``tau_d``), ``never`` (share that no prediction came near) and ``curve`` (threshold, share);
        ``recipe``: by kind, what to put into a recipe, where a kind with too few rows has the
        threshold of all rows; None by tool, and where there are too few rows; ``warnings``.

    Raises:
        UsageError: there is no row.
    """
    if not measured:
        raise UsageError("there is no training row to calibrate on")
    parts: dict[str, list[float]] = {}
    for row in measured:
        name = row.kind if by == "kind" else row.tool
        if name is not None:
            parts.setdefault(name, []).append(row.critical)
    whole = _figures([row.critical for row in measured], wanted)
    found: dict[str, JsonValue] = {
        name: _figures(criticals, wanted) for name, criticals in sorted(parts.items())
    }
    return {
        "rows": len(measured),
        "wanted": wanted,
        "by": by,
        "all": whole,
        "parts": found,
        "recipe": _recipe(found, whole) if by == "kind" else None,
        "warnings": list[JsonValue](_warnings([row.critical for row in measured], wanted)),
    }


def _figures(criticals: Sequence[float], wanted: float) -> dict[str, JsonValue]:
    curve: list[JsonValue] = [[tau_d, round(easy_share(criticals, tau_d), 6)] for tau_d in grid()]
    never = sum(math.isinf(critical) for critical in criticals) / len(criticals)
    figures: dict[str, JsonValue] = {"rows": len(criticals), "never": never, "curve": curve}
    if len(criticals) < MIN_ROWS:
        return figures | {"tau_d": None, "training_tau_d": None, "easy_share": None}
    tau_d = choose_tau_d(criticals, wanted=wanted)
    return figures | {
        "tau_d": tau_d,
        "training_tau_d": training_tau_d(tau_d),
        "easy_share": easy_share(criticals, tau_d),
    }


def _recipe(parts: Mapping[str, JsonValue], whole: Mapping[str, JsonValue]) -> JsonValue:
    """Thresholds by kind as a recipe has them."""
    if whole["tau_d"] is None:
        return None
    data: dict[str, JsonValue] = {}
    training: dict[str, JsonValue] = {}
    for kind, figures in parts.items():
        mine = figures if isinstance(figures, dict) and figures["tau_d"] is not None else whole
        data[kind], training[kind] = mine["tau_d"], mine["training_tau_d"]
    return {"filter": {"tau_d": data}, "reward": {"tau_d": training}}


def write_recipe(calibration: Mapping[str, JsonValue], path: Path) -> bool:
    """Writes the thresholds by kind as TOML for a recipe; False where there are none."""
    found = calibration["recipe"]
    if not isinstance(found, dict):
        return False
    lines = ["# Thresholds of the gap by kind, found by 'rwml calibrate': put them into a recipe."]
    for section, settings in found.items():
        thresholds = settings["tau_d"] if isinstance(settings, dict) else None
        lines += ["", f"[{section}.tau_d]"]
        lines += [f"{k} = {v}" for k, v in (thresholds or {}).items()]  # type: ignore[union-attr]
    with whole_file(path, mode=0o666) as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return True


def _warnings(criticals: Sequence[float], wanted: float) -> list[str]:
    if len(criticals) < MIN_ROWS:
        return [f"{len(criticals)} rows are too few for a threshold: {MIN_ROWS} are needed"]
    found = []
    tau_d = choose_tau_d(criticals, wanted=wanted)
    share = easy_share(criticals, tau_d)
    training = training_tau_d(tau_d)
    if abs(share - wanted) > 0.1:
        found.append(f"no threshold makes {wanted:.0%} of the rows easy: {tau_d} makes {share:.0%}")
    if training > LENIENT:
        found.append(f"a training threshold of {training} is too lenient (above {LENIENT})")
    if tau_d < STRICT:
        found.append(f"a threshold of {tau_d} comes near exact match (below {STRICT})")
    return found


def draw_curve(calibration: Mapping[str, JsonValue], path: Path) -> None:
    """Draws the share of easy rows against the threshold, of all rows and of each part."""
    parts = calibration["parts"]
    lines = {"all": calibration["all"], **(parts if isinstance(parts, dict) else {})}
    with figure(path, width=7, height=4.2) as drawn:
        axes = drawn.subplots()
        for name, figures in lines.items():
            if isinstance(figures, dict) and isinstance(curve := figures["curve"], list):
                shares = [point for point in curve if isinstance(point, list)]
                label = f"{name} ({figures['rows']} rows)"
                width = 2.5 if name == "all" else 1.2
                axes.plot([p[0] for p in shares], [p[1] for p in shares], label=label, lw=width)  # type: ignore[misc]
        whole = lines["all"]
        if isinstance(whole, dict) and isinstance(whole["tau_d"], float):
            axes.axvline(whole["tau_d"], color="black", linestyle=":")
            axes.axhline(float(str(calibration["wanted"])), color="black", linestyle=":")
            title = f"data: tau_d {whole['tau_d']}, training: tau_d {whole['training_tau_d']}"
            axes.set_title(title, fontsize="medium")
        axes.set(xlabel="tau_d", ylabel="share of easy samples", ylim=(-0.02, 1.02))
        axes.legend(fontsize="small")
