"""`rwml compare`: two evaluations, paired, with an interval and a word that it has earned."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rwml.cli.output import JsonFlag, emit
from rwml.environments import comparing
from rwml.environments.charts import draw_comparison
from rwml.extras import require
from rwml.files import write_json

ReportArgument = typer.Argument(help="Folder or report.json of 'rwml eval'.")


def compare(
    base: Annotated[Path, ReportArgument],
    trained: Annotated[Path, ReportArgument],
    out: Annotated[
        Path | None, typer.Option(help="Folder for comparison.json and comparison.png.")
    ] = None,
    across_bases: Annotated[
        bool,
        typer.Option("--across-bases", help="Also where package, data or settings differ."),
    ] = False,
    json: JsonFlag = False,
) -> None:
    """Compare two evaluations of the same tasks: difference, 95% interval, verdict.

    Episodes are paired by task and trial. "improved" and "worse" are said only where the interval
    excludes 0. Evaluations on different packages, data, splits, step limits or user simulators are
    refused, unless --across-bases is given; then every output says so.

    Example: rwml compare base trained --out comparison
    """
    if out is not None:
        require("plot", "matplotlib")
    before, after = comparing.read_report(base), comparing.read_report(trained)
    comparison = comparing.compare(before, after, across_bases=across_bases)
    if out is not None:
        write_json(out / "comparison.json", comparison)
        draw_comparison(comparison, out / "comparison.png")
    emit(comparison, as_json=json, text=comparing.describe(comparison))
