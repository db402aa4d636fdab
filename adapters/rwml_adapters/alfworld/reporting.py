"""ALFWorld's own figures over played episodes: how they waste actions, and how soon they succeed.

RWML sec. 4 reports the share of invalid or inefficient actions: replies in the wrong form, "look"
and "examine". What else changes nothing ("inventory", "help") is counted apart. Infrastructure
errors are no episodes here.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence

from pydantic import JsonValue

from rwml.schema import Step, Trajectory
from rwml_adapters.alfworld.episodes import INVALID_KEY, TASK_TYPE_KEY


def summarize(trajectories: Sequence[Trajectory]) -> dict[str, JsonValue]:
    """Wasted actions, and steps to success; success itself is in every environment's report."""
    judged = [each for each in trajectories if each.outcome.success is not None]
    kinds = sorted({str(each.metadata.get(TASK_TYPE_KEY)) for each in judged})
    return {
        **_figures(judged),
        "by_task_type": {
            kind: _figures([each for each in judged if each.metadata.get(TASK_TYPE_KEY) == kind])
            for kind in kinds
        },
    }


def _figures(trajectories: Sequence[Trajectory]) -> dict[str, JsonValue]:
    return {
        "actions": _actions([step for each in trajectories for step in each.steps]),
        "steps_to_success": _steps_to_success(trajectories),
    }


def _actions(steps: Sequence[Step]) -> dict[str, JsonValue]:
    counts = {
        "format_error": sum(step.metadata.get(INVALID_KEY) == "format" for step in steps),
        "nothing_happens": sum(step.metadata.get(INVALID_KEY) == "command" for step in steps),
        "look": _valid(steps, ("look",)),
        "examine": _valid(steps, ("examine",)),
        "inventory_or_help": _valid(steps, ("inventory", "help")),
    }
    total = len(steps)
    shares: dict[str, JsonValue] = {
        f"{name}_share": count / total if total else None for name, count in counts.items()
    }
    invalid = counts["format_error"] + counts["nothing_happens"]
    inefficient = counts["look"] + counts["examine"]
    return {
        "count": total,
        **shares,
        "invalid_share": invalid / total if total else None,
        "inefficient_share": inefficient / total if total else None,
        "invalid_or_inefficient_share": (invalid + inefficient) / total if total else None,
    }


def _valid(steps: Iterable[Step], verbs: Sequence[str]) -> int:
    """Actions of these verbs that the environment took."""
    return sum(
        INVALID_KEY not in step.metadata and (step.action.content or "").split(" ")[0] in verbs
        for step in steps
    )


def _steps_to_success(trajectories: Iterable[Trajectory]) -> dict[str, JsonValue]:
    lengths = [len(each.steps) for each in trajectories if each.outcome.success]
    return {
        "mean": statistics.fmean(lengths) if lengths else None,
        "median": statistics.median(lengths) if lengths else None,
        "longest": max(lengths, default=None),
    }
