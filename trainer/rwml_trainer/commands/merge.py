"""`rwml merge`: a run's LoRA adapter and its base model as one standalone folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rwml.cli.output import JsonFlag, emit, say
from rwml_trainer.runs import Stage

StageOption = Annotated[
    Stage, typer.Option("--stage", help="The weights after GRPO, or after the warm start.")
]


def merge(
    run: Annotated[Path, typer.Argument(help="Folder of a finished run.")],
    out: Annotated[Path, typer.Option("--out", help="Folder to make.")],
    stage: StageOption = "trained",
    results: Annotated[
        Path | None,
        typer.Option(help="report.json of 'rwml eval world' on this run, for the model card."),
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Merge a run into a folder that any engine loads: LoRA adapter and base, or all weights.

    It holds a model card, README.md: recipe, data, results, licence.

    Example: rwml merge runs/retail --out models/retail --results eval/report.json
    """
    from rwml_trainer import merging, runs

    runs.read_run(run)  # before we say that we merge it
    say(f"merging {run} ({stage}) into {out}")
    folder = merging.merge(run, out, stage=stage, results=results)
    manifest = merging.read_merge(folder)
    assert manifest is not None  # noqa: S101  # `merge` returns whole folders only
    emit(
        {"model": str(folder.resolve()), **manifest.model_dump(mode="json", exclude={"files"})},
        as_json=json,
        text=f"{folder}: {manifest.name} after {manifest.steps} steps on {manifest.base_model}",
    )
