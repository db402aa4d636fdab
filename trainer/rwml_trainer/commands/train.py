"""`rwml train`: from a dataset to a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rwml.cli.output import JsonFlag, emit, stdout_to_stderr
from rwml_trainer.commands.build import ModelOption, RecipeOption
from rwml_trainer.recipes import load_recipe
from rwml_trainer.runs import FOLDERS
from rwml_trainer.training import train as run_training


def train(
    dataset: Annotated[Path, typer.Argument(help="Dataset folder, made by 'rwml build'.")],
    out: Annotated[Path, typer.Option(help="Folder of the run.")],
    recipe: RecipeOption = "demo",
    model: ModelOption = None,
    steps: Annotated[int | None, typer.Option(help="GRPO steps.", min=1)] = None,
    warm_start_steps: Annotated[
        int | None, typer.Option(help="WM-SFT steps before GRPO; 0 for none.", min=0)
    ] = None,
    encoder: Annotated[str | None, typer.Option(help="Encoder of the reward.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed.")] = None,
    resume: Annotated[bool, typer.Option(help="Go on with an unfinished run in --out.")] = False,
    json: JsonFlag = False,
) -> None:
    """Train a world model on a dataset: a warm start if the recipe has one, then GRPO.

    Example: rwml train data --out runs/first --steps 8
    """
    settings = load_recipe(
        recipe,
        {
            "model": model,
            "grpo.steps": steps,
            "warm_start.steps": warm_start_steps,
            "reward.encoder": encoder,
            "seed": seed,
        },
    )
    with stdout_to_stderr():
        run = run_training(dataset, out, recipe=settings, resume=resume)
    rewards = ", ".join("none" if r is None else f"{r:.2f}" for r in run.rewards)
    lora = str(out / FOLDERS["trained"])
    emit(
        {
            "run": str(out),
            "steps": run.steps,
            "reward": list(run.rewards),
            "warm_start": run.warm_start,
            "lora_adapter": lora,
            "seconds": run.seconds,
        },
        as_json=json,
        text=f"{run.steps} GRPO steps in {run.seconds:.0f} s; reward by step: {rewards}; "
        f"LoRA adapter in {lora}",
    )
