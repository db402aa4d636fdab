"""`rwml eval seeds`: runs that differ in their seed, as one result."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from rwml.cli.output import JsonFlag, emit, render
from rwml.errors import UsageError
from rwml.extras import require
from rwml.files import write_json


def eval_seeds(
    runs: Annotated[
        list[Path],
        typer.Argument(help="Run folders, each evaluated by 'rwml eval world --out RUN/eval'."),
    ],
    against: Annotated[
        list[Path] | None,
        typer.Option(help="Runs of another method, such as WM SFT alone; repeatable."),
    ] = None,
    against_name: Annotated[
        str, typer.Option(help="What the other method is called.")
    ] = "WM SFT alone",
    out: Annotated[Path | None, typer.Option(help="Folder for seeds.json and seeds.png.")] = None,
    json: JsonFlag = False,
) -> None:
    """Pool the evaluations of runs that differ in their seed: means, intervals, curves.

    Rewards are averaged over runs within each row, intervals are over tasks, and what each seed
    had stands beside. All must have been evaluated on the same rows.

    Example: rwml eval seeds runs/rwml-0 runs/rwml-1 runs/rwml-2 --against runs/sft-0 --out results
    """
    if out is not None:
        require("plot", "matplotlib")
    named = [run.resolve() for run in (*runs, *(against or ()))]
    if len(set(named)) < len(named):
        raise UsageError("each run may be named once: seeds that are counted twice are no seeds")
    from rwml_trainer import seeds

    report = seeds.pool(runs, against or ())
    if out is not None:
        write_json(out / "seeds.json", report)
        seeds.draw_seeds(report, out / "seeds.png", against=against_name)
    emit(report, as_json=json, text=_shown(report, against_name))


def _shown(report: dict[str, Any], against: str) -> str:
    from rwml_trainer.seeds import AGAINST
    from rwml_trainer.world_eval import describe

    def label(name: str) -> str:
        return against if name == AGAINST else name

    seeds = len(report["seeds"])
    table = Table(title=f"{report['rows']} rows of {report['tasks']} tasks, {seeds} runs")
    for heading in ("", "reward", "95% interval", "by run"):
        table.add_column(heading, no_wrap=True, justify="right" if heading else "left")
    for name, figures in report["predictors"].items():
        low, high = figures["ci95"]
        each = " ".join(f"{value:.3f}" for value in figures["by_seed"])
        table.add_row(label(name), f"{figures['reward']:.3f}", f"{low:.3f} to {high:.3f}", each)
    lines = []
    for comparison in report["comparisons"]:
        named = [label(name) for name in comparison["compared"]]
        line = describe(comparison | {"compared": named})
        if comparison["by_seed"]:
            line += " (by run " + " ".join(f"{value:+.3f}" for value in comparison["by_seed"]) + ")"
        lines.append(line)
    return render(table, "\n".join(lines))
