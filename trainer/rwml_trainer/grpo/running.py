"""Runs GRPO as a recipe says: TRL's settings, its trainer, checkpoints, rewards by step."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import PrinterCallback
from trl.trainer.grpo_config import GRPOConfig

from rwml.cli.output import say
from rwml.errors import DatasetError, UsageError
from rwml_trainer.checkpoints import newest_whole
from rwml_trainer.dataset import Row
from rwml_trainer.grpo.trainer import WorldModelTrainer
from rwml_trainer.metrics import watched
from rwml_trainer.recipes import Recipe
from rwml_trainer.resuming import saving
from rwml_trainer.rewards import NextStateScore, logged_reward


def run_grpo(
    model: Any,
    tokenizer: Any,
    rows: Sequence[Row],
    reward: NextStateScore,
    *,
    recipe: Recipe,
    scratch: Path,
    metrics: Path,
    checkpoints: Path,
) -> list[float | None]:
    """Trains a model by GRPO.

    Args:
        model: a `PeftModel` with a trainable LoRA adapter, or a whole model; changed in place.
        rows: training rows.
        reward: scores the completions.
        recipe: its ``grpo`` section decides.
        scratch: folder that the trainer may write to.
        metrics: file to which one line per step is added.
        checkpoints: folder of the checkpoints; the newest whole one there is gone on from.

    Returns:
        Mean reward of each optimiser step; None where no completion could be scored.

    Raises:
        DatasetError: there are fewer rows than groups of one step.
        UsageError: the step cannot be shared among this many processes.
    """
    if len(rows) < recipe.grpo.prompts_per_step:
        raise DatasetError(
            f"the dataset has {len(rows)} training rows and a step takes "
            f"{recipe.grpo.prompts_per_step} prompts: build a larger one, or set "
            f"grpo.prompts_per_step"
        )
    done, checkpoint = newest_whole(checkpoints, report=say) or (0, None)
    with watched(metrics, stage="grpo", label="grpo", steps=recipe.grpo.steps, done=done) as watch:
        trainer = WorldModelTrainer(
            model=model,
            reward_funcs=logged_reward(reward, recipe.guards),
            args=grpo_config(recipe, scratch),
            train_dataset=Dataset.from_list([dict(row) for row in rows]),
            processing_class=tokenizer,
            callbacks=[watch],
            checkpoints=checkpoints,
            shared_prefix=recipe.grpo.shared_prefix,
            report=say,
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
        trainer.give_back()
    return rewards_by_step(trainer.state.log_history)


def rewards_by_step(history: Sequence[dict[str, Any]]) -> list[float | None]:
    """Mean reward of each step; one that goes over a generation again has that one's."""
    rewards: list[float | None] = []
    reward = math.nan
    for line in history:
        if "loss" in line:  # a step, not the summary at the end
            told = line.get("reward", reward)
            reward = math.nan if told is None else float(told)
            rewards.append(None if math.isnan(reward) else round(reward, 6))
    return rewards


def grpo_config(recipe: Recipe, scratch: Path) -> GRPOConfig:
    """TRL's settings for a recipe: `prompts_per_step` groups of `group_size` a step.

    Raises:
        UsageError: the step cannot be shared among this many processes.
    """
    settings = recipe.grpo
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    accumulated, rest = divmod(settings.prompts_per_step, settings.groups_per_pass * processes)
    if rest:
        raise UsageError(
            f"grpo.prompts_per_step ({settings.prompts_per_step}) must be a multiple of "
            f"grpo.groups_per_pass times the processes ({settings.groups_per_pass} x {processes})"
        )
    return GRPOConfig(
        output_dir=str(scratch),
        max_steps=settings.steps,
        per_device_train_batch_size=settings.group_size * settings.groups_per_pass,
        gradient_accumulation_steps=accumulated,
        num_generations=settings.group_size,
        num_iterations=settings.num_iterations,
        learning_rate=settings.learning_rate,
        lr_scheduler_type="constant",
        max_completion_length=settings.max_new_tokens,
        temperature=settings.temperature,
        beta=settings.beta,
        epsilon=settings.epsilon,
        loss_type=settings.loss_type,
        scale_rewards="group",
        gradient_checkpointing=True,
        gradient_checkpointing_kwargs={"use_reentrant": False},
        bf16=recipe.dtype == "bfloat16",
        use_cpu=not torch.cuda.is_available(),
        dataloader_pin_memory=False,
        logging_steps=1,
        report_to=[],
        disable_tqdm=True,
        seed=recipe.seed,
        **saving(settings.save_steps),
    )
