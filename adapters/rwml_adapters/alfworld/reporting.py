"""ALFWorld's own figures over played episodes: where they succeed, and how they waste actions.

RWML sec. 4 reports the share of invalid or inefficient actions: replies in the wrong form, "look"
and "examine". What else changes nothing ("inventory", "help") is counted apart. Infrastructure
errors are no episodes here.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence

from pydantic import JsonValue

from rwml.schema import Step, Trajectory
from rwml_adapters.alfworld.episodes import INVALID_KEY

TRIAL_KEY = "trial"
"""Metadata of a trajectory: the number of its attempt, set by who plays the episodes."""


def summarize(trajectories: Sequence[Trajectory]) -> dict[str, JsonValue]:
    """Success by split and task type, wasted actions, and steps to success."""
    judged = [each for each in trajectories if each.outcome.success is not None]
    return {
        "by_split_and_task_type": _by_type(judged),
        "success_over_trials": _over_trials(judged),
        "actions": _actions([step for each in judged for step in each.steps]),
        "steps_to_success": _steps_to_success(judged),
    }


def _by_type(trajectories: Sequence[Trajectory]) -> dict[str, JsonValue]:
    groups: dict[str, dict[str, list[bool]]] = defaultdict(lambda: defaultdict(list))
    for each in trajectories:
        kind = str(each.metadata.get("task_type"))
        groups[each.split or "none"][kind].append(bool(each.outcome.success))
    return {
        split: {
            kind: {"episodes": len(won), "success_rate": statistics.fmean(won)}
            for kind, won in sorted(kinds.items())
        }
        for split, kinds in sorted(groups.items())
    }


def _over_trials(trajectories: Sequence[Trajectory]) -> dict[str, JsonValue]:
    """Mean and sample deviation of the trials' success rates; each trial has seeds of its own."""
    trials: dict[str, list[bool]] = defaultdict(list)
    for each in trajectories:
        trials[str(each.metadata.get(TRIAL_KEY, 0))].append(bool(each.outcome.success))
    rates = [statistics.fmean(won) for won in trials.values()]
    return {
        "trials": len(rates),
        "mean": statistics.fmean(rates) if rates else None,
        "deviation": statistics.stdev(rates) if len(rates) > 1 else None,
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
