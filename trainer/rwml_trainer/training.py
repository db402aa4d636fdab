"""One run from a dataset to a LoRA adapter: warm start, then GRPO, each saved whole or not at all.

Everything that can be wrong with the input is checked before a model loads.
"""

from __future__ import annotations

import shutil
import time
import uuid
from pathlib import Path
from typing import Any

from rwml.errors import DatasetError, UsageError
from rwml.extras import require
from rwml_trainer.dataset import read_dataset
from rwml_trainer.models import load_model, load_tokenizer, template_sha256
from rwml_trainer.recipes import Recipe
from rwml_trainer.rewards import NextStateReward
from rwml_trainer.runs import FOLDERS, MANIFEST, METRICS, Run, read_run, write_run
from rwml_trainer.small_models import resolve_encoder, resolve_model


def train(dataset: Path, out: Path, *, recipe: Recipe, resume: bool = False) -> Run:
    """Trains a world model.

    Args:
        dataset: dataset folder.
        out: run folder.
        recipe: what to do.
        resume: go on with an unfinished run in `out` (a whole warm start is not repeated); a
            finished one is returned as it is.

    Returns:
        The finished run.

    Raises:
        UsageError: `out` holds a run and `resume` is off.
        DatasetError: the dataset is not whole, or was built for another chat template.
        ModelError: the model cannot be used.
    """
    if (out / MANIFEST).is_file():
        if resume:
            return read_run(out)
        raise UsageError(f"{out} holds a finished run: choose another --out, or pass --resume")
    require("train", "torch", "transformers", "trl", "peft", "datasets", "sentence_transformers")
    started = time.monotonic()
    data = read_dataset(dataset)
    base = resolve_model(recipe.model)
    tokenizer = load_tokenizer(base)
    template = template_sha256(tokenizer)
    if template != data.manifest.template_sha256:
        raise DatasetError(
            f"{dataset} was built with another chat template than that of {recipe.model}: "
            f"build it again with --model {recipe.model}"
        )
    reward = NextStateReward(
        encoder=resolve_encoder(recipe.reward.encoder),
        tau_d=recipe.reward.tau_d,
        round_to=recipe.reward.round_to,
    )
    reward.embedding.encoder.encode(["a text"])  # an encoder that cannot load fails here
    out.mkdir(parents=True, exist_ok=True)
    scratch = out / ".scratch"
    if not resume:
        for stage in FOLDERS.values():
            shutil.rmtree(out / stage, ignore_errors=True)
        (out / METRICS).unlink(missing_ok=True)
    try:
        model = _warm_model(base, tokenizer, data.train, recipe=recipe, out=out)
        rewards = _run_grpo(model, tokenizer, data.train, reward, recipe=recipe, out=out)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    run = Run(
        name=out.resolve().name,
        base_model=base,
        steps=len(rewards),
        rewards=tuple(rewards),
        warm_start=recipe.warm_start.steps > 0,
        template_sha256=template,
        dataset=str(dataset.resolve()),
        seconds=round(time.monotonic() - started, 1),
        recipe=recipe.model_dump(mode="json"),
    )
    write_run(out, run)
    return run


def _warm_model(base: str, tokenizer: Any, rows: Any, *, recipe: Recipe, out: Path) -> Any:
    """The model with a LoRA adapter to train: a fresh one, or after a warm start."""
    from transformers import set_seed

    set_seed(recipe.seed)
    folder = out / FOLDERS["warm_start"]
    if recipe.warm_start.steps and folder.is_dir():
        return load_model(base, lora=folder, dtype=recipe.dtype, trainable=True)
    model = _fresh_lora(load_model(base, dtype=recipe.dtype), recipe)
    if recipe.warm_start.steps:
        from rwml_trainer.warm_start import warm_start

        warm_start(
            model,
            tokenizer,
            rows,
            recipe=recipe,
            scratch=out / ".scratch",
            metrics=out / METRICS,
        )
        save_whole(model, folder)
    return model


def _run_grpo(
    model: Any, tokenizer: Any, rows: Any, reward: NextStateReward, *, recipe: Recipe, out: Path
) -> list[float]:
    from rwml_trainer.grpo import run_grpo

    rewards = run_grpo(
        model,
        tokenizer,
        rows,
        reward,
        recipe=recipe,
        scratch=out / ".scratch",
        metrics=out / METRICS,
    )
    save_whole(model, out / FOLDERS["trained"])
    return rewards


def save_whole(model: Any, folder: Path) -> None:
    """Saves a LoRA adapter under a temporary name and renames it: whole, or not there."""
    temporary = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}")
    try:
        model.save_pretrained(temporary, safe_serialization=True)
        shutil.rmtree(folder, ignore_errors=True)
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _fresh_lora(model: Any, recipe: Recipe) -> Any:
    from peft import LoraConfig, get_peft_model

    targets = recipe.lora.targets
    config = LoraConfig(
        r=recipe.lora.rank,
        lora_alpha=recipe.lora.alpha,
        lora_dropout=0.0,
        target_modules=targets if isinstance(targets, str) else list(targets),
        task_type="CAUSAL_LM",
    )
    return get_peft_model(model, config)
