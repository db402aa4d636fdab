"""`rwml train`: from a dataset to a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rwml.cli.output import JsonFlag, emit, stdout_to_stderr
from rwml.errors import UsageError
from rwml_trainer.commands.build import ModelOption, RecipeOption
from rwml_trainer.recipes import Resolved, resolve_recipe
from rwml_trainer.runs import FOLDERS
from rwml_trainer.training import train as run_training


def train(
    dataset: Annotated[
        Path | None, typer.Argument(help="Dataset folder, made by 'rwml build'.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the run.")] = None,
    recipe: RecipeOption = "demo",
    model: ModelOption = None,
    steps: Annotated[int | None, typer.Option(help="GRPO steps.", min=1)] = None,
    warm_start_steps: Annotated[
        int | None, typer.Option(help="WM-SFT steps before GRPO; 0 for none.", min=0)
    ] = None,
    encoder: Annotated[str | None, typer.Option(help="Encoder of the reward.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed.")] = None,
    resume: Annotated[bool, typer.Option(help="Go on with an unfinished run in --out.")] = False,
    print_config: Annotated[
        bool, typer.Option("--print-config", help="Show the recipe and where each value is from.")
    ] = False,
    json: JsonFlag = False,
) -> None:
    """Train a world model on a dataset: a warm start if the recipe has one, then GRPO.

    Example: rwml train data --out runs/first --steps 8
    """
    resolved = resolve_recipe(
        recipe,
        {
            "model": model,
            "grpo.steps": steps,
            "warm_start.steps": warm_start_steps,
            "reward.encoder": encoder,
            "seed": seed,
        },
    )
    if print_config:
        _print_config(resolved, as_json=json)
        return
    if dataset is None or out is None:
        raise UsageError("name the dataset folder and --out, the folder of the run")
    with stdout_to_stderr():
        run = run_training(dataset, out, recipe=resolved.recipe, resume=resume)
    rewards = ", ".join("none" if r is None else f"{r:.2f}" for r in run.rewards)
    weights = str(out / FOLDERS[run.weights]["trained"])
    emit(
        {
            "run": str(out),
            "steps": run.steps,
            "reward": list(run.rewards),
            "warm_start": run.warm_start,
            "lora_adapter": weights if run.weights == "lora" else None,
            "weights": weights,
            "seconds": run.seconds,
        },
        as_json=json,
        text=f"{run.steps} GRPO steps in {run.seconds:.0f} s; reward by step: {rewards}; "
        f"{'LoRA adapter' if run.weights == 'lora' else 'weights'} in {weights}",
    )


def _print_config(resolved: Resolved, *, as_json: bool) -> None:
    table = resolved.table()
    shown = [(f"{key} = {told['value']!r}", told["origin"]) for key, told in table.items()]
    width = max(len(setting) for setting, _ in shown)
    lines = [f"{setting:<{width}}  # {origin}" for setting, origin in shown]
    emit({"recipe": table}, as_json=as_json, text="\n".join(lines))
