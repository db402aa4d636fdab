"""`rwml train`: from a dataset to a run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from rwml.cli.output import JsonFlag, emit, stdout_to_stderr
from rwml.errors import UsageError
from rwml.extras import require
from rwml_trainer.commands.build import ModelOption, RecipeOption
from rwml_trainer.dataset import read_manifest
from rwml_trainer.launch import Launch, Launcher, plan_launch
from rwml_trainer.planning import GIB, KNOWN, read_shape
from rwml_trainer.planning import plan as make_plan
from rwml_trainer.processes import is_first, leave
from rwml_trainer.recipes import Recipe, Resolved, resolve_recipe
from rwml_trainer.runs import FOLDERS, Run
from rwml_trainer.settling import settle
from rwml_trainer.small_models import resolve_model
from rwml_trainer.training import train as run_training


def train(
    dataset: Annotated[
        Path | None, typer.Argument(help="Dataset folder, made by 'rwml build'.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the run.")] = None,
    recipe: RecipeOption = "demo",
    model: ModelOption = None,
    steps: Annotated[
        int | None, typer.Option(help="GRPO steps; 0 for WM SFT alone.", min=0)
    ] = None,
    warm_start_steps: Annotated[
        int | None, typer.Option(help="WM-SFT steps before GRPO; 0 for none.", min=0)
    ] = None,
    encoder: Annotated[str | None, typer.Option(help="Encoder of the reward.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed.")] = None,
    resume: Annotated[bool, typer.Option(help="Go on with an unfinished run in --out.")] = False,
    print_config: Annotated[
        bool, typer.Option("--print-config", help="Show the recipe and where each value is from.")
    ] = False,
    print_launch: Annotated[
        Launcher | None,
        typer.Option("--print-launch", help="Show how to start it on several GPUs; train nothing."),
    ] = None,
    plan: Annotated[
        bool, typer.Option("--plan", help="Say whether it fits, and what it takes; train nothing.")
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
    if print_launch:
        options = {
            "--recipe": recipe,
            "--model": model,
            "--steps": steps,
            "--warm-start-steps": warm_start_steps,
            "--encoder": encoder,
            "--seed": seed,
        }
        words = _words(dataset, out, options, resume=resume)
        _print_launch(plan_launch(print_launch, resolved.recipe, words), as_json=json)
        return
    if plan:
        if dataset is None:
            raise UsageError("name the dataset folder: a plan counts its tokens")
        _print_plan(dataset, resolved.recipe, as_json=json)
        return
    if dataset is None or out is None:
        raise UsageError("name the dataset folder and --out, the folder of the run")
    with stdout_to_stderr():
        run = run_training(
            dataset, out, recipe=resolved.recipe, resume=resume, origins=resolved.origins
        )
        leave()
    if is_first():
        _print_run(run, out, as_json=json)


def _words(
    dataset: Path | None, out: Path | None, options: Mapping[str, object], *, resume: bool
) -> list[str]:
    """The arguments of this command, with names where paths are still to be filled in."""
    words = [str(dataset or "DATASET"), "--out", str(out or "RUN")]
    for name, value in options.items():
        words += [] if value is None else [name, str(value)]
    return [*words, *(["--resume"] if resume else [])]


def _print_run(run: Run, out: Path, *, as_json: bool) -> None:
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
        as_json=as_json,
        text=(
            f"{run.steps} GRPO steps in {run.seconds:.0f} s; reward by step: {rewards}; "
            if run.steps
            else f"WM SFT alone in {run.seconds:.0f} s; "
        )
        + f"{'LoRA adapter' if run.weights == 'lora' else 'weights'} in {weights}",
    )


def _print_config(resolved: Resolved, *, as_json: bool) -> None:
    table = resolved.table()
    shown = [(f"{key} = {told['value']!r}", told["origin"]) for key, told in table.items()]
    width = max(len(setting) for setting, _ in shown)
    lines = [f"{setting:<{width}}  # {origin}" for setting, origin in shown]
    emit({"recipe": table}, as_json=as_json, text="\n".join(lines))


def _print_launch(launch: Launch, *, as_json: bool) -> None:
    lines = [f"config: {launch.config}"]
    lines += [f"vLLM first, on GPUs of its own: {launch.vllm}"] if launch.vllm else []
    lines += [f"start ({launch.processes} processes): {launch.command}"]
    found = launch._asdict() | {"config": str(launch.config)}
    emit(found, as_json=as_json, text="\n".join(lines))


def _print_plan(dataset: Path, recipe: Recipe, *, as_json: bool) -> None:
    manifest = read_manifest(dataset)
    settled = settle(recipe, manifest)
    known = recipe.model in KNOWN
    shape = read_shape(recipe.model if known else resolve_model(recipe.model))
    found = make_plan(settled, manifest, shape=shape, memory_gib=_gpu_memory_gib(recipe))
    memory, hours, tokens = (found[name] for name in ("memory_gib", "hours", "tokens"))
    assert isinstance(memory, dict)  # noqa: S101  # `plan` says so
    assert isinstance(hours, dict)  # noqa: S101
    lines = [
        f"{'fits' if found['fits'] else 'DOES NOT FIT'}: {memory['needed']} GiB of "
        f"{memory['available']} on each device",
        *(f"  {name} {gib}" for name, gib in memory.items() if name not in ("needed", "available")),
        f"steps: {found['steps']}; tokens: {tokens}",
        "hours: " + ", ".join(f"{stage} {number}" for stage, number in hours.items()),
        f"filter's share of the computation: {found['filter_share']:.0%}",
        *(str(note) for note in found["notes"] or ()),  # type: ignore[union-attr]
    ]
    emit(found, as_json=as_json, text="\n".join(lines))
    if not found["fits"]:
        raise typer.Exit(1)


def _gpu_memory_gib(recipe: Recipe) -> float | None:
    """Memory of the GPU at hand; None where there is none, so that the recipe's counts."""
    require("train", "torch")
    import torch

    if not recipe.compute.gpus or not torch.cuda.is_available():
        return None
    return torch.cuda.get_device_properties(0).total_memory / GIB
