"""Runs GRPO as a recipe says: TRL's settings, its trainer, checkpoints, rewards by step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import PrinterCallback
from trl.trainer.grpo_config import GRPOConfig

from rwml.cli.output import say
from rwml.errors import DatasetError
from rwml_trainer.checkpoints import newest_whole
from rwml_trainer.dataset import Row
from rwml_trainer.grpo.trainer import WorldModelTrainer
from rwml_trainer.metrics import watched
from rwml_trainer.processes import is_first, on_first, process_count
from rwml_trainer.recipes import Recipe
from rwml_trainer.resuming import saving
from rwml_trainer.rewards import NextStateScore, logged_reward
from rwml_trainer.saving import save_trained
from rwml_trainer.vllm import vllm_settings


def run_grpo(
    model: Any,
    tokenizer: Any,
    rows: Sequence[Row],
    reward: NextStateScore,
    *,
    recipe: Recipe,
    out: Path,
    scratch: Path,
    metrics: Path,
    checkpoints: Path,
) -> list[float | None]:
    """Trains a model by GRPO, and saves what was trained.

    Args:
        model: a `PeftModel` with a trainable LoRA adapter, or a whole model; changed in place.
        rows: training rows.
        reward: scores the completions.
        recipe: its ``grpo`` section decides.
        out: folder of the weights.
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
    args = grpo_config(recipe, scratch)
    done, checkpoint = on_first(lambda: newest_whole(checkpoints, report=say)) or (0, None)
    with watched(metrics, stage="grpo", label="grpo", steps=recipe.grpo.steps, done=done) as watch:
        trainer = WorldModelTrainer(
            model=model,
            reward_funcs=logged_reward(reward, recipe.guards),
            args=args,
            train_dataset=Dataset.from_list([dict(row) for row in rows]),
            processing_class=tokenizer,
            callbacks=[watch],
            checkpoints=checkpoints,
            shared_prefix=recipe.grpo.shared_prefix,
            report=say if is_first() else lambda reason: None,
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
        trainer.give_back()
        save_trained(trainer, out)
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
    return GRPOConfig(
        output_dir=str(scratch),
        max_steps=settings.steps,
        per_device_train_batch_size=settings.group_size * settings.groups_per_pass,
        gradient_accumulation_steps=settings.accumulated(process_count()),
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
        **vllm_settings(recipe),
        **saving(settings.save_steps),
    )
