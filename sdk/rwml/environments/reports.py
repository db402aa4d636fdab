"""The report of an evaluation, and on what basis it stands.

Two runs of the same settings give the same report, whatever ended first or was resumed: nothing in
it depends on time. Figures of different bases must never be compared silently. Source: ours.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from pydantic import JsonValue

from rwml.environments.contract import Environment, Episode, Summarizes
from rwml.environments.results import Result, count
from rwml.redaction import describe
from rwml.schema import Trajectory
from rwml.statistics import Interval, mean_and_deviation, pass_hat_k, success_rate, tasks_for_width

BASIS = ("source", "package", "version", "data_version", "split", "max_steps", "user_simulator")
"""What must be the same for two evaluations to be compared."""

WIDTHS = (0.1, 0.2)
"""Of intervals, for which a report says how many tasks they need (ours)."""


def settings_of(
    environment: Environment, episodes: Sequence[Episode], *, split: str, seed: int
) -> dict[str, JsonValue]:
    """What a run was asked for: it can be resumed only with the same."""
    first = episodes[0]
    return {
        "source": environment.source,
        "split": split,
        "agent": environment.agent,
        "fingerprint": environment.fingerprint().model_dump(mode="json", exclude={"seed"}),
        "seed": seed,
        "max_steps": first.max_steps,
        "trials": 1 + max(episode.trial for episode in episodes),
        "task_ids": list(dict.fromkeys(episode.task.id for episode in episodes)),
    }


def basis_of(report: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    """On what the figures of a report, or of a run's settings, stand."""
    fingerprint = report.get("fingerprint")
    known = {**(fingerprint if isinstance(fingerprint, dict) else {}), **report}
    return {name: known.get(name) for name in BASIS}


def make_report(
    settings: Mapping[str, JsonValue],
    results: Sequence[Result],
    *,
    details: Mapping[str, JsonValue],
) -> dict[str, JsonValue]:
    """The report of a run.

    Args:
        settings: of the run.
        results: of its episodes, in order.
        details: the environment's own figures.
    """
    judged = successes(results)
    trials = 1 + max(result.trial for result in results)
    interval = interval_of(judged)
    report: dict[str, JsonValue] = {
        name: value for name, value in settings.items() if name != "task_ids"
    }
    report |= {
        **count(results),
        "ci95": interval,
        "success_ci95": interval,
        "pass_hat_k": {
            str(k): chance
            for k in range(1, trials + 1)
            if (chance := pass_hat_k(judged, k)) is not None
        },
        "tasks_for_width": _tasks_for_width(judged),
        "over_trials": _over_trials(results),
        "by_kind": by_kind(results),
        "details": dict(details),
        "episodes": [result.to_json() for result in results],
    }
    return report


def details_of(
    environment: Environment, trajectories: Sequence[Trajectory]
) -> dict[str, JsonValue]:
    """The environment's own figures; none where it has none, the reason where it fails.

    A run of hours must not be lost to one figure.
    """
    if not trajectories or not isinstance(environment, Summarizes):
        return {}
    try:
        details = environment.summarize(trajectories)
        json.dumps(details, allow_nan=False)
    except Exception as error:  # noqa: BLE001 - somebody else's code
        return {"error": f"summarize failed: {describe(error)}"}
    return details


def successes(results: Sequence[Result]) -> dict[tuple[str, int], bool]:
    """Who succeeded, by task and trial; without what nobody judged."""
    return {
        (result.task, result.trial): result.success
        for result in results
        if result.success is not None
    }


def interval_of(judged: Mapping[tuple[str, int], bool]) -> list[JsonValue] | None:
    """The 95% interval of the success rate; None where nothing was judged."""
    return bounds(success_rate(judged)) if judged else None


def bounds(interval: Interval) -> list[JsonValue]:
    """An interval as it stands in reports."""
    return [interval.low, interval.high]


def by_kind(results: Sequence[Result]) -> dict[str, JsonValue]:
    """Success rate and interval of each kind of task."""
    kinds = sorted({result.kind for result in results if result.kind is not None})
    found: dict[str, JsonValue] = {}
    for kind in kinds:
        of_it = [result for result in results if result.kind == kind]
        found[kind] = {**count(of_it), "ci95": interval_of(successes(of_it))}
    return found


def _tasks_for_width(judged: Mapping[tuple[str, int], bool]) -> dict[str, JsonValue]:
    """How many tasks an interval of so many points needs at this success rate."""
    if not judged:
        return {}
    rate = sum(judged.values()) / len(judged)
    return {f"{width:g}": tasks_for_width(width, rate=rate) for width in WIDTHS}


def _over_trials(results: Sequence[Result]) -> dict[str, JsonValue] | None:
    """Mean and deviation of the success rates of the trials, each over all tasks."""
    of_trial: dict[int, list[bool]] = {}
    for (_, trial), success in successes(results).items():
        of_trial.setdefault(trial, []).append(success)
    rates = [sum(of_trial[trial]) / len(of_trial[trial]) for trial in sorted(of_trial)]
    if not rates:
        return None
    mean, deviation = mean_and_deviation(rates)
    return {"rates": list(rates), "mean": mean, "deviation": deviation}
