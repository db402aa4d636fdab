"""GRPO on sim-to-real rewards with TRL (RWML sec. 2.3). The only module that imports trl.

Departures from TRL's defaults: ``loss_type="grpo"`` (TRL: ``dapo``) and rewards scaled by the
group's standard deviation, as the paper has it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import PrinterCallback
from trl.trainer.grpo_config import GRPOConfig
from trl.trainer.grpo_trainer import GRPOTrainer

from rwml.prompts import parse_prediction
from rwml_trainer.dataset import Row
from rwml_trainer.metrics import watched
from rwml_trainer.recipes import Recipe
from rwml_trainer.rewards import NextStateReward, completion_text


def run_grpo(
    model: Any,
    tokenizer: Any,
    rows: Sequence[Row],
    reward: NextStateReward,
    *,
    recipe: Recipe,
    scratch: Path,
    metrics: Path,
) -> list[float | None]:
    """Trains the model's LoRA adapter by GRPO.

    Args:
        model: a `PeftModel` with a trainable LoRA adapter; changed in place.
        rows: training rows.
        reward: scores the completions.
        recipe: its ``grpo`` section decides.
        scratch: folder that the trainer may write to.
        metrics: file to which one line per step is added.

    Returns:
        Mean reward of each optimiser step; None where no completion could be scored.
    """
    with watched(metrics, stage="grpo", label="grpo", steps=recipe.grpo.steps) as watch:
        trainer = GRPOTrainer(
            model=model,
            reward_funcs=with_format_rate(reward),
            args=grpo_config(recipe, scratch),
            train_dataset=Dataset.from_list([dict(row) for row in rows]),
            processing_class=tokenizer,
            callbacks=[watch],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    rewards = [float(str(line["reward"])) for line in watch.lines if "reward" in line]
    return [None if math.isnan(reward) else round(reward, 6) for reward in rewards]


def grpo_config(recipe: Recipe, scratch: Path) -> GRPOConfig:
    """TRL's settings for a recipe: `prompts_per_step` groups of `group_size` a step."""
    settings = recipe.grpo
    return GRPOConfig(
        output_dir=str(scratch),
        max_steps=settings.steps,
        per_device_train_batch_size=settings.group_size,
        gradient_accumulation_steps=settings.prompts_per_step,
        num_generations=settings.group_size,
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
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        seed=recipe.seed,
    )


def with_format_rate(reward: NextStateReward) -> Any:
    """The reward as TRL wants it, with the share of well-formed completions logged beside it."""

    def next_state_reward(**columns: Any) -> list[float | None]:
        log_metric = columns.get("log_metric")
        if log_metric is not None:
            formed = [
                parse_prediction(completion_text(c)).next_state is not None
                for c in columns["completions"]
            ]
            log_metric("format_rate", sum(formed) / len(formed))
        return reward(**columns)

    return next_state_reward
