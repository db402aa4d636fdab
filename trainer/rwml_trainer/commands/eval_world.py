"""`rwml eval world`: how well models predict the next state on held-out rows."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import typer
from rich.table import Table

from rwml.cli.output import JsonFlag, emit, progress, render, stdout_to_stderr
from rwml.errors import UsageError
from rwml.extras import require
from rwml.files import write_json
from rwml_trainer.commands.build import ModelOption, RecipeOption
from rwml_trainer.recipes import load_recipe
from rwml_trainer.runs import read_run
from rwml_trainer.world_eval import describe
from rwml_trainer.world_predictors import evaluate

Predictor = Literal["constant", "copy_last", "base", "warm_start", "trained"]


def eval_world(
    dataset: Annotated[Path, typer.Argument(help="Dataset folder, made by 'rwml build'.")],
    run: Annotated[
        Path | None, typer.Option(help="Run folder, for warm_start and trained.")
    ] = None,
    predictors: Annotated[
        str | None,
        typer.Option(
            help="Of base, warm_start, trained, by commas; default: all there are. The trivial "
            "ones (constant, copy_last) are always there."
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for report and predictions.")] = None,
    page: Annotated[
        Path | None, typer.Option(help="HTML file: best, worst and most changed predictions.")
    ] = None,
    recipe: RecipeOption = "demo",
    model: ModelOption = None,
    encoder: Annotated[str | None, typer.Option(help="Encoder of the reward.")] = None,
    rows: Annotated[int | None, typer.Option(help="Held-out rows at most.", min=1)] = None,
    seeds: Annotated[
        int | None,
        typer.Option(help="Sampled predictions of each row; by default one greedy one.", min=1),
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Evaluate next-state prediction on held-out rows, beside trivial predictors.

    Example: rwml eval world data --run runs/first --out eval --page eval/predictions.html
    """
    overrides = {
        "model": model,
        "reward.encoder": encoder,
        "evaluation.rows": rows,
        "evaluation.seeds": seeds,
    }
    settings = load_recipe(recipe, overrides)
    if page is not None and page.is_dir():
        raise UsageError(f"{page} is a folder: name an HTML file")
    wanted = [name.strip() for name in predictors.split(",")] if predictors else _default(run)
    unknown = [name for name in wanted if name not in get_args(Predictor)]
    if unknown:
        raise UsageError(f"unknown predictor {unknown[0]!r}: use {', '.join(get_args(Predictor))}")
    if run is None and {"warm_start", "trained"} & set(wanted):
        raise UsageError("warm_start and trained need --run RUN")
    require("train", "torch", "transformers", "sentence_transformers", "rouge_score", "jinja2")
    with stdout_to_stderr():
        report = evaluate(
            dataset,
            wanted,
            recipe=settings,
            run=run,
            predictions=out,
            page=page,
            progress=progress,
        )
    if out is not None:
        write_json(out / "report.json", report)
    emit(report, as_json=json, text=_shown(report))


def _shown(report: dict[str, Any]) -> str:
    """The report for people: a line for each predictor, then what was compared."""
    split = report["split"].replace("_", "-")
    table = Table(title=f"{report['rows']} {split} rows of {report['tasks']} tasks")
    columns = ("reward", "skill", "format_rate", "exact")
    for heading in ("", *columns, "95% interval"):
        table.add_column(heading, no_wrap=True, justify="right" if heading else "left")
    for name in (name for name in get_args(Predictor) if name in report):
        figures = report[name]
        values = ["-" if figures[key] is None else f"{figures[key]:.3f}" for key in columns]
        low, high = figures["reward_ci95"]
        table.add_row(name, *values, f"{low:.3f} to {high:.3f}")
    skill = f"skill: what is added to {report['best_trivial']}, the best trivial predictor"
    return render(table, "\n".join([skill, *map(describe, report["comparisons"])]))


def _default(run: Path | None) -> list[str]:
    """Every predictor there is: a run may have had no warm start, as in the paper."""
    if run is None:
        return ["base"]
    warm = ["warm_start"] if read_run(run).warm_start else []
    return ["base", *warm, "trained"]
