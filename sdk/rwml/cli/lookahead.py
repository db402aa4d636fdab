"""`rwml lookahead`: how good the look-aheads before risky tools were, as far as they are kept."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict
from typing import Annotated

import typer
from rich.table import Table

from rwml.cli.output import JsonFlag, StoreOption, emit, printable, render, track
from rwml.cli.periods import SinceOption, UntilOption, read_time
from rwml.statistics import Interval
from rwml.store import Store, open_store
from rwml.world_model.lookahead import (
    LookaheadReport,
    Mode,
    Verdict,
    read_lookaheads,
    summarise,
)
from rwml.world_model.selection import Selection

NONE = (
    "no such look-ahead is kept here: pass recorder= to LookaheadMiddleware, and run an agent that "
    "calls a tool it names"
)


def lookahead(
    store: StoreOption,
    tool: Annotated[str | None, typer.Option("--tool", help="Only calls of this tool.")] = None,
    mode: Annotated[
        Mode | None, typer.Option("--mode", help="Only those made in this mode.")
    ] = None,
    since: SinceOption = None,
    until: UntilOption = None,
    json: JsonFlag = False,
) -> None:
    """Report on look-aheads: were their warnings right, what did they miss, how long did they take.

    Precision and recall are of calls that ran, since of the others nobody knows what would have
    happened: those of mode shadow tell the most.

    Example: rwml lookahead --store sqlite:///rwml.db --mode shadow
    """
    with open_store(store, create=False) as opened:
        by_tool = _verdicts(opened, tool=tool, mode=mode, since=since, until=until)
    reports = {name: summarise(verdicts) for name, verdicts in sorted(by_tool.items())}
    whole = summarise(verdict for verdicts in by_tool.values() for verdict in verdicts)
    emit(
        {"all": asdict(whole), "tools": {name: asdict(each) for name, each in reports.items()}},
        as_json=json,
        text="" if json else _describe(whole, reports),
    )


def _verdicts(
    store: Store, *, tool: str | None, mode: Mode | None, since: str | None, until: str | None
) -> Mapping[str, list[Verdict]]:
    """Verdicts of the wanted look-aheads by tool."""
    period = Selection(since=read_time(since), until=read_time(until))
    found: defaultdict[str, list[Verdict]] = defaultdict(list)
    for each in track(read_lookaheads(store), label="look-aheads"):
        is_wanted = tool in (None, each.call.name) and mode in (None, each.verdict.mode)
        if is_wanted and period.covers(each.at):
            found[each.call.name].append(each.verdict)
    return found


def _describe(whole: LookaheadReport, reports: Mapping[str, LookaheadReport]) -> str:
    if not whole.calls:
        return NONE
    table = Table("tool", box=None)
    for heading in ("calls", "foreseen", "warned", "held", "judged", "bad"):
        table.add_column(heading, justify="right")
    for heading in ("precision", "recall", "added s: p50", "p90", "max"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, report in [*reports.items(), ("all", whole)]:
        counts = (report.calls, report.foreseen, report.warned, report.held)
        added = report.added_s or {}
        table.add_row(
            printable(name),
            *map(str, (*counts, report.judged, report.bad)),
            *map(_interval, (report.precision, report.recall)),
            *(f"{added[name]:.3f}" for name in ("p50", "p90", "max")),
        )
    gone = ", ".join(f"{number} {reason}" for reason, number in whole.gone.items())
    return render(
        table,
        "",
        f"nothing foreseen: {gone or 'never'}; precision and recall with 95% intervals are of the "
        f"{whole.judged} foreseen calls that ran",
    )


def _interval(found: Interval | None) -> str:
    return "-" if found is None else f"{found.mean:.2f} [{found.low:.2f}, {found.high:.2f}]"
