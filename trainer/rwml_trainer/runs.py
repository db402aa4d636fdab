"""The folder of a run: what a finished training leaves, and how other commands find it.

    RUN/
      started.json      what the training was told, written first
      run.json          written last, so that its presence means that the run is whole
      metrics.jsonl     one line per training step
      checkpoints/      of an unfinished run, what --resume goes on from
      warm_start/       weights after the warm start (only where there was one), safetensors
      lora_adapter/     LoRA adapter after GRPO, safetensors
      weights/          instead of it, the whole model, where all weights were trained

Nothing but `run.json` says that a run is whole: a folder without it is never served or evaluated.
"""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from rwml.errors import ModelError
from rwml.files import file_sha256, write_json
from rwml.prompts import PromptSettings
from rwml_trainer.encoders import EncoderMark
from rwml_trainer.models import load_model

MANIFEST = "run.json"
STARTED = "started.json"
METRICS = "metrics.jsonl"
CHECKPOINTS = "checkpoints"
Stage = Literal["warm_start", "trained"]
Weights = Literal["lora", "full"]
FOLDERS: dict[Weights, dict[Stage, str]] = {
    "lora": {"warm_start": "warm_start", "trained": "lora_adapter"},
    "full": {"warm_start": "warm_start", "trained": "weights"},
}


class Lineage(BaseModel):
    """What a run was trained on: enough to tell, and to know the dataset again.

    Attributes:
        sha256: hash of each file of the dataset.
        rows: per side.
        sources: training rows by the source of their trajectories.
        transitions: that the dataset was built from.
        dropped: of these, left out, by reason.
        held_out: how the rows that are not trained on were chosen.
        profile: of the prompts.
        is_masked: whether JSON results of tools were replaced by their schema.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    sha256: dict[str, str]
    rows: dict[str, int]
    sources: dict[str, int]
    transitions: int
    dropped: dict[str, int]
    held_out: str
    profile: str
    is_masked: bool


class Run(BaseModel):
    """What `run.json` holds.

    Attributes:
        name: name of the run; the served model is called so.
        base_model: absolute path or hub name of the model that was trained.
        weights: whether a LoRA adapter for it was trained, or all its weights.
        steps: optimiser steps of GRPO that were taken.
        rewards: mean reward of each GRPO step; None where no completion could be scored.
        warm_start: whether there are weights from before GRPO.
        template_sha256: hash of the chat template that the prompts were rendered with.
        encoder: of the reward, to be known again; None in runs that did not note it.
        dataset: path of the dataset folder.
        validation_share: share of tasks, from the start of the hash band, that training never saw.
        recipe: the resolved recipe.
        prompts: what decided over the prompts, for whoever asks the model; None in runs that did
            not note it.
        origins: where each of its values is from, by dotted key; empty where that was not told.
        data: what it was trained on; None in runs that did not note it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    base_model: str
    weights: Weights = "lora"
    steps: int
    rewards: tuple[float | None, ...]
    warm_start: bool
    template_sha256: str
    encoder: EncoderMark | None = None
    dataset: str
    validation_share: float
    seconds: float
    recipe: dict[str, JsonValue] = Field(default_factory=dict)
    prompts: PromptSettings | None = None
    origins: dict[str, str] = Field(default_factory=dict)
    data: Lineage | None = None


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


def read_started(folder: Path) -> dict[str, JsonValue]:
    """What a run's training was told; nothing where that was not noted.

    Raises:
        ModelError: it was noted, and cannot be read.
    """
    path = folder / STARTED
    if not path.is_file():
        return {}
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(f"{path} is not JSON: {error}") from error
    return told if isinstance(told, dict) else {}


def weights_sha256(folder: Path, stage: Stage = "trained") -> str:
    """Hash of a run's weights at a stage: of the one file, or of the hashes of several.

    Raises:
        ModelError: the run is not whole, had no such stage, or lost its weights.
    """
    weights = weights_folder(folder, stage)
    hashes = [file_sha256(path) for path in sorted(weights.glob("*.safetensors"))]
    if not hashes:
        raise ModelError(f"{weights} holds no safetensors weights: train again")
    return hashes[0] if len(hashes) == 1 else sha256("".join(hashes).encode()).hexdigest()


def weights_folder(folder: Path, stage: Stage = "trained") -> Path:
    """Folder of a run's LoRA adapter, or of its whole model, at a stage.

    Raises:
        ModelError: the run is not whole or had no such stage.
    """
    run = read_run(folder)
    if stage == "warm_start" and not run.warm_start:
        raise ModelError(f"{folder} was trained without a warm start")
    return folder / FOLDERS[run.weights][stage]


def load_stage(folder: Path, stage: Stage, *, dtype: str) -> Any:
    """The model of a run at a stage, any LoRA adapter merged in, as it is served.

    Raises:
        ModelError: the run is not whole, had no such stage, or its weights do not fit.
    """
    weights = weights_folder(folder, stage)
    run = read_run(folder)
    if run.weights == "full":
        return load_model(str(weights), dtype=dtype)
    try:
        return load_model(run.base_model, lora=weights, dtype=dtype).merge_and_unload()
    except RuntimeError as error:  # what torch raises for shapes that do not fit
        raise ModelError(f"{weights} does not fit {run.base_model}: {error}") from error
