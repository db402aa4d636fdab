"""Compares two evaluations: pairs by task and trial, and says "improved" only outside noise.

Figures that stand on different bases (package, data, split, limit of steps, user simulator) are
never compared silently: two packages of one benchmark give different rewards. Source: ours.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import JsonValue

from rwml.environments.folder import REPORT, RESULTS
from rwml.environments.reports import basis_of, bounds, successes
from rwml.environments.results import Result
from rwml.errors import UsageError
from rwml.statistics import MIN_CLUSTERS, Row, paired_difference, success_rate, verdict

Report = Mapping[str, Any]
"""A report as it was read: what is taken from it is checked by `read_report`."""


def read_report(path: Path) -> Report:
    """The report of an evaluation: of a folder, or the file itself.

    Raises:
        UsageError: it is missing, unfinished, or no report of an evaluation.
    """
    file = path / REPORT if path.is_dir() else path
    if not file.is_file():
        if path.is_dir() and (path / RESULTS).exists():
            raise UsageError(f"the evaluation in {path} is not finished: go on with --resume")
        raise UsageError(f"no report at {file}: name the folder or report.json of 'rwml eval'")
    try:
        report = json.loads(file.read_text(encoding="utf-8"))
        results_of(report)
        basis_of(report)
        report["agent"]
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        raise UsageError(
            f"{file} is no report of an environment: name one that 'rwml eval' wrote"
        ) from None
    return report


def results_of(report: Report) -> list[Result]:
    """The episodes of a report."""
    return [Result(**episode) for episode in report["episodes"]]


def differences_of_bases(base: Report, trained: Report) -> dict[str, JsonValue]:
    """What differs in what two reports, or the settings of a run, stand on."""
    first, second = basis_of(base), basis_of(trained)
    return {name: [first[name], second[name]] for name in first if first[name] != second[name]}


def check_bases(base: Report, trained: Report, *, way_out: str) -> None:
    """Refuses two that stand on different bases.

    Args:
        base: report, or settings of a run.
        trained: likewise.
        way_out: what the user can do, at the end of the message.

    Raises:
        UsageError: they differ; it says in what.
    """
    found = differences_of_bases(base, trained)
    if found:
        words = "; ".join(f"{name} {_words(pair)}" for name, pair in found.items())
        raise UsageError(f"the two stand on different bases: {words}: {way_out}")


def compare(base: Report, trained: Report, *, across_bases: bool = False) -> dict[str, JsonValue]:
    """The paired comparison of two reports.

    Returns:
        ``base`` and ``trained`` are success rates over the rows that both have; ``difference``
        with ``ci95`` (task-clustered bootstrap), ``verdict``, ``tasks`` and ``pairs`` behind it,
        rows left out as ``unpaired``, and the same ``by_kind``.

    Raises:
        UsageError: the bases differ and `across_bases` is off, or nothing can be paired.
    """
    if not across_bases:
        check_bases(
            base, trained,
            way_out="evaluate both on the same, or add --across-bases, knowing what it means",
        )  # fmt: skip
    rows_base, rows_trained = results_of(base), results_of(trained)
    figures = _pair(rows_base, rows_trained)
    kinds = sorted({result.kind for result in rows_trained if result.kind is not None})
    of_kinds: dict[str, JsonValue] = {}
    for kind in kinds:
        first = [result for result in rows_base if result.kind == kind]
        second = [result for result in rows_trained if result.kind == kind]
        if successes(first).keys() & successes(second).keys():
            of_kinds[kind] = _pair(first, second)
    return {
        **figures,
        "by_kind": of_kinds,
        "compared": [str(trained["agent"]), str(base["agent"])],
        "source": trained["source"],
        "split": trained["split"],
        "across_bases": across_bases,
        "bases_differ_in": differences_of_bases(base, trained),
    }


def describe(comparison: Mapping[str, Any]) -> str:
    """A comparison in words."""
    low, high = comparison["ci95"]
    after, before = comparison["compared"]
    lines = [
        f"{after} minus {before}: {comparison['difference']:+.3f} [{low:+.3f}, {high:+.3f}] "
        f"over {comparison['tasks']} tasks: {comparison['verdict']}",
        f"success: {comparison['base']:.1%} before, {comparison['trained']:.1%} after",
    ]
    if comparison["tasks"] < MIN_CLUSTERS:
        lines.append(f"fewer than {MIN_CLUSTERS} tasks are too few to show a difference")
    if comparison["unpaired"]:
        lines.append(f"{comparison['unpaired']} episodes have no counterpart and are left out")
    for kind, figures in comparison["by_kind"].items():
        low, high = figures["ci95"]
        lines.append(
            f"{kind}: {figures['difference']:+.3f} [{low:+.3f}, {high:+.3f}] "
            f"over {figures['tasks']} tasks"
        )
    if comparison["bases_differ_in"]:
        differ = comparison["bases_differ_in"]
        words = "; ".join(f"{name} {_words(pair)}" for name, pair in differ.items())
        lines.append(f"WARNING: different bases, so this is no comparison of agents alone: {words}")
    return "\n".join(lines)


def _pair(base: Sequence[Result], trained: Sequence[Result]) -> dict[str, JsonValue]:
    before, after = successes(base), successes(trained)
    common = [row for row in after if row in before]
    difference = paired_difference(before, after)
    return {
        "base": _mean(before, common),
        "trained": _mean(after, common),
        "difference": difference.mean,
        "ci95": bounds(difference),
        "verdict": verdict(difference),
        "tasks": difference.clusters,
        "pairs": len(common),
        "unpaired": len(before.keys() ^ after.keys()),
        "base_ci95": bounds(success_rate({row: before[row] for row in common})),
        "trained_ci95": bounds(success_rate({row: after[row] for row in common})),
    }


def _mean(values: Mapping[Row, bool], rows: Sequence[Row]) -> float:
    return sum(values[row] for row in rows) / len(rows)


def _words(pair: Any) -> str:
    return f"{json.dumps(pair[0])} against {json.dumps(pair[1])}"
