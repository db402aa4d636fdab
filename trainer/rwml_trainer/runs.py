"""The folder of a run: what a finished training leaves, and how other commands find it.

    RUN/
      started.json      what the training was told, written first
      run.json          written last, so that its presence means that the run is whole
      metrics.jsonl     one line per training step
      checkpoints/      of an unfinished run, what --resume goes on from
      warm_start/       LoRA adapter after the warm start (only where there was one)
      lora_adapter/     LoRA adapter after GRPO, safetensors

Nothing but `run.json` says that a run is whole: a folder without it is never served or evaluated.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from rwml.errors import ModelError
from rwml.files import write_json
from rwml_trainer.encoders import EncoderMark

MANIFEST = "run.json"
STARTED = "started.json"
METRICS = "metrics.jsonl"
CHECKPOINTS = "checkpoints"
Stage = Literal["warm_start", "trained"]
FOLDERS: dict[Stage, str] = {"warm_start": "warm_start", "trained": "lora_adapter"}


class Run(BaseModel):
    """What `run.json` holds.

    Attributes:
        name: name of the run; the served model is called so.
        base_model: absolute path or hub name of the model that the LoRA adapter belongs to.
        steps: optimiser steps of GRPO that were taken.
        rewards: mean reward of each GRPO step; None where no completion could be scored.
        warm_start: whether there is a LoRA adapter from before GRPO.
        template_sha256: hash of the chat template that the prompts were rendered with.
        encoder: of the reward, to be known again; None in runs that did not note it.
        dataset: path of the dataset folder.
        validation_share: share of tasks, from the start of the hash band, that training never saw.
        recipe: the resolved recipe.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    base_model: str
    steps: int
    rewards: tuple[float | None, ...]
    warm_start: bool
    template_sha256: str
    encoder: EncoderMark | None = None
    dataset: str
    validation_share: float
    seconds: float
    recipe: dict[str, JsonValue] = Field(default_factory=dict)


def write_run(folder: Path, run: Run) -> None:
    """Marks a run folder as whole; call it after everything else is on disk."""
    write_json(folder / MANIFEST, run.model_dump(mode="json"))


def read_run(folder: Path) -> Run:
    """Reads a whole run.

    Raises:
        ModelError: there is no run, or it is not whole.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise ModelError(
            f"{folder} is no finished run (it has no {MANIFEST}): train one with 'rwml train'"
        )
    try:
        return Run.model_validate_json(path.read_text(encoding="utf-8"))
    except (ValidationError, ValueError) as error:
        raise ModelError(f"{path} is not a run manifest: {error}") from error


def lora_folder(folder: Path, stage: Stage = "trained") -> Path:
    """Folder of a run's LoRA adapter at a stage.

    Raises:
        ModelError: the run is not whole or had no such stage.
    """
    run = read_run(folder)
    if stage == "warm_start" and not run.warm_start:
        raise ModelError(f"{folder} was trained without a warm start")
    return folder / FOLDERS[stage]
