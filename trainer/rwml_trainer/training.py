"""One run from a dataset to trained weights: warm start, then GRPO, each saved whole or not at all.

Everything that can be wrong with the input is checked before a model loads. Of several processes
(`rwml_trainer.processes`) all run this; the first one alone looks at the run folder and writes.
"""

from __future__ import annotations

import json
import shutil
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rwml.errors import DatasetError, UsageError
from rwml.extras import require
from rwml.files import write_json
from rwml_trainer.dataset import Dataset, read_dataset, sft_row
from rwml_trainer.dataset.rows import prompt_settings
from rwml_trainer.encoders import EncoderMark, check_encoder, mark_encoder
from rwml_trainer.models import load_model, load_tokenizer, template_sha256
from rwml_trainer.processes import is_first, on_first, process_count
from rwml_trainer.recipes import Recipe, origins_after
from rwml_trainer.rewards import NextStateScore, make_reward, make_training_reward
from rwml_trainer.runs import (
    CHECKPOINTS,
    FOLDERS,
    MANIFEST,
    METRICS,
    STARTED,
    Lineage,
    Run,
    read_run,
    write_run,
)
from rwml_trainer.settling import settle
from rwml_trainer.small_models import resolve_model
from rwml_trainer.vllm import check_vllm

SCRATCH = ".scratch"


def train(
    dataset: Path,
    out: Path,
    *,
    recipe: Recipe,
    resume: bool = False,
    origins: Mapping[str, str] | None = None,
) -> Run:
    """Trains a world model.

    Args:
        dataset: dataset folder.
        out: run folder.
        recipe: what to do.
        resume: go on with an unfinished run in `out` from its newest whole checkpoint (a whole
            warm start is not repeated); a finished one is returned as it is. Recipe, dataset and
            model must be the same.
        origins: where each value of the recipe is from, by dotted key; the run keeps it.

    Returns:
        The finished run.

    Raises:
        UsageError: `out` holds a run and `resume` is off, or a run of something else; a step
            cannot be shared among the processes; vLLM is asked for and missing.
        DatasetError: the dataset is not whole, or was built for another chat template.
        ModelError: the model cannot be used.
        RewardError: the encoder cannot be used, or is not the one that the dataset was filtered
            with.
    """
    require("train", "torch", "transformers", "trl", "peft", "datasets", "sentence_transformers")
    data = read_dataset(dataset)
    asked, recipe = recipe, settle(recipe, data.manifest)
    _check_recipe(recipe)
    base = on_first(lambda: resolve_model(recipe.model))  # which may unpack it
    told = {
        "recipe": recipe.model_dump(mode="json"),
        "base_model": base,
        "dataset": dict(data.manifest.sha256),
    }
    if on_first(lambda: _is_finished(out, told, resume=resume)):
        return read_run(out)
    tokenizer = _tokenizer(base, recipe, data)
    reward, encoder = _reward(recipe, data)
    started = time.monotonic()
    settled = origins_after(origins or {}, asked, recipe)
    on_first(lambda: write_json(out / STARTED, told | {"origins": settled}))
    try:
        supervised = [sft_row(row, data.manifest.templates) for row in data.train]
        model = _warm_model(base, tokenizer, supervised, recipe=recipe, out=out)
        rewards = (
            _run_grpo(model, tokenizer, data.train, reward, recipe=recipe, out=out)
            if recipe.grpo.steps
            else []
        )
    finally:
        if is_first():
            shutil.rmtree(out / SCRATCH, ignore_errors=True)
    run = Run(
        name=out.resolve().name,
        base_model=base,
        weights=recipe.weights,
        steps=len(rewards),
        rewards=tuple(rewards),
        warm_start=recipe.warm_start.steps > 0 and recipe.grpo.steps > 0,
        template_sha256=data.manifest.template_sha256,
        encoder=encoder,
        dataset=str(dataset.resolve()),
        validation_share=data.manifest.recipe.untouched_share,
        seconds=round(time.monotonic() - started, 1),
        recipe=recipe.model_dump(mode="json"),
        prompts=prompt_settings(data.manifest.recipe, data.manifest.templates),
        origins=settled,
        data=_lineage(data),
    )
    return on_first(lambda: _finish(out, run))


def _tokenizer(base: str, recipe: Recipe, data: Dataset) -> Any:
    """The model's tokenizer; refuses a dataset whose prompts were measured with another one."""
    tokenizer = load_tokenizer(base)
    if template_sha256(tokenizer) != data.manifest.template_sha256:
        raise DatasetError(
            f"{data.folder} was built with another chat template than that of {recipe.model}: "
            f"build it again with --model {recipe.model}"
        )
    return tokenizer


def _reward(recipe: Recipe, data: Dataset) -> tuple[NextStateScore, EncoderMark]:
    """What is trained on, and the mark of its encoder; one that cannot load fails here."""
    composite = make_reward(recipe.reward)
    encoder = mark_encoder(composite.embedding.encoder, name=recipe.reward.encoder)
    if data.manifest.filtered is not None:
        check_encoder(encoder, data.manifest.filtered.encoder, of=str(data.folder))
    return make_training_reward(recipe.reward, composite), encoder


def _check_recipe(recipe: Recipe) -> None:
    """Refuses what this machine cannot run as it is asked for."""
    if recipe.warm_start.steps:
        recipe.warm_start.accumulated(process_count())
    if recipe.grpo.steps:
        recipe.grpo.accumulated(process_count())
        check_vllm(recipe)


def _finish(out: Path, run: Run) -> Run:
    write_run(out, run)
    shutil.rmtree(out / CHECKPOINTS, ignore_errors=True)
    return run


def _lineage(data: Dataset) -> Lineage:
    manifest = data.manifest
    return Lineage(
        sha256=dict(manifest.sha256),
        rows={str(split): count for split, count in manifest.rows.items()},
        sources=dict(Counter(row["source"] for row in data.train)),
        transitions=manifest.transitions,
        dropped=dict(manifest.dropped),
        held_out=manifest.held_out,
        profile=manifest.recipe.profile,
        is_masked=manifest.recipe.mask_tools,
    )


def _is_finished(out: Path, told: dict[str, Any], *, resume: bool) -> bool:
    """Whether there is nothing left to do; refuses a folder that this training would harm."""
    _check_folder(out, told, resume=resume)
    return (out / MANIFEST).is_file()


def _check_folder(out: Path, told: dict[str, Any], *, resume: bool) -> None:
    """Refuses a folder whose contents this training would destroy or be mixed with."""
    if not out.exists() or not any(path for path in out.iterdir() if path.name[0] != "."):
        return  # nothing, or what was left of a start that was cut
    if not (out / STARTED).is_file():
        raise UsageError(f"{out} is not empty and holds no run: choose another --out")
    if not resume:
        state = "a finished" if (out / MANIFEST).is_file() else "an unfinished"
        raise UsageError(f"{out} holds {state} run: pass --resume, or choose another --out")
    before = json.loads((out / STARTED).read_text(encoding="utf-8"))
    changed = [key for key, value in told.items() if before.get(key) != value]
    if changed:
        raise UsageError(
            f"{out} was started with another {' and '.join(changed)}: choose another --out"
        )


def _warm_model(base: str, tokenizer: Any, rows: Any, *, recipe: Recipe, out: Path) -> Any:
    """The model to train: as it is, or after a warm start; without GRPO that is all."""
    from transformers import set_seed

    set_seed(recipe.seed)
    folder = out / FOLDERS[recipe.weights]["warm_start" if recipe.grpo.steps else "trained"]
    if recipe.warm_start.steps and on_first(folder.is_dir):
        return _load_trainable(base, recipe, folder)
    model = _load_trainable(base, recipe)
    if not recipe.warm_start.steps:
        return model
    from rwml_trainer.warm_start import warm_start

    checkpoints = out / CHECKPOINTS / "warm_start"
    warm_start(
        model,
        tokenizer,
        rows,
        recipe=recipe,
        out=folder,
        scratch=out / SCRATCH,
        metrics=out / METRICS,
        checkpoints=checkpoints,
    )
    on_first(lambda: shutil.rmtree(checkpoints, ignore_errors=True))
    # a reference model of all weights is loaded from where the model says it is from; a model that
    # processes have shared is not to be wrapped again
    fresh = recipe.weights == "full" or process_count() > 1
    return _load_trainable(base, recipe, folder) if fresh else model


def _run_grpo(
    model: Any, tokenizer: Any, rows: Any, reward: NextStateScore, *, recipe: Recipe, out: Path
) -> list[float | None]:
    from rwml_trainer.grpo import run_grpo

    return run_grpo(
        model,
        tokenizer,
        rows,
        reward,
        recipe=recipe,
        out=out / FOLDERS[recipe.weights]["trained"],
        scratch=out / SCRATCH,
        metrics=out / METRICS,
        checkpoints=out / CHECKPOINTS / "grpo",
    )


def _load_trainable(base: str, recipe: Recipe, folder: Path | None = None) -> Any:
    """The model with what is to be trained: from `folder` where it is given, else new.

    All weights are trained in float32: a step at the paper's learning rate is smaller than what
    bfloat16 can add to a weight.
    """
    if recipe.weights == "full":
        return load_model(base if folder is None else str(folder), dtype="float32")
    if folder is not None:
        return load_model(base, lora=folder, dtype=recipe.dtype, trainable=True)
    return fresh_lora(load_model(base, dtype=recipe.dtype), recipe)


def fresh_lora(model: Any, recipe: Recipe) -> Any:
    """The model with a new LoRA adapter, as the recipe's ``lora`` section says."""
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
