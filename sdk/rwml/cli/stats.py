"""`rwml stats`: what a store is made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Annotated

import typer
from rich.table import Table

from rwml.cli.output import JsonFlag, StoreOption, emit, no_trajectory, printable, render
from rwml.errors import UsageError
from rwml.store import Stats, open_store

BREAKDOWNS = ("by_source", "by_kind", "by_status", "by_tool", "by_model", "outcomes")


def stats(
    store: StoreOption,
    source: Annotated[str | None, typer.Option(help="Only this source (tau2:retail).")] = None,
    json: JsonFlag = False,
) -> None:
    """Sum up a store: trajectories, transitions, tools, models, outcomes, lengths, times.

    The success rate is over judged trajectories only; without one there is none.

    Example: rwml stats --store sqlite:///rwml.db --source tau2:retail
    """
    with open_store(store, create=False) as opened:
        found = opened.stats(source=source)
        if source is not None and not found.trajectories:
            raise UsageError(no_trajectory(opened, source))
    times = {
        name: None if time is None else time.isoformat()
        for name, time in (("first", found.first), ("last", found.last))
    }
    emit({**asdict(found), **times}, as_json=json, text="" if json else _describe(found, times))


def _describe(found: Stats, times: Mapping[str, str | None]) -> str:
    totals = Table("store", "", box=None)
    for name in ("trajectories", "steps", "transitions"):
        totals.add_row(name, str(getattr(found, name)))
    rate = found.success_rate
    totals.add_row("success rate", "nothing judged" if rate is None else f"{rate:.3f}")
    for name, length in found.steps_per_trajectory.items():
        totals.add_row(f"steps per trajectory, {name}", "-" if length is None else f"{length:g}")
    for name, time in times.items():
        totals.add_row(name, time or "-")
    parts: list[object] = [totals]
    for name in BREAKDOWNS:
        numbers: Mapping[str, int] = getattr(found, name)
        if any(numbers.values()):
            table = Table(name.replace("_", " "), "count", box=None)
            table.columns[1].justify = "right"
            for key, number in numbers.items():
                table.add_row(printable(key), str(number))
            parts += ["", table]
    return render(*parts)
