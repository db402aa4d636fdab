"""The shape of a recipe: frozen pydantic models; an unknown key is an error.

Each default says where it comes from: a section of the RWML paper, or "ours".
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from rwml.prompts import Profile


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class DataRecipe(_Section):
    """How transitions become examples.

    Attributes:
        profile: prompt profile (``paper``: tables A4-A7; ``compact``: ours).
        history: H, earlier turns in the context (ours: the paper gives no number).
        mask_tools: replace JSON tool results by their schema (app. C.1).
        max_prompt_tokens: longest prompt, chat template included (ours).
        max_target_tokens: longest next state (ours); longer ones are dropped and counted.
        validation_share: share of tasks that is held out (sec. 2.2 has 0.1; by task: ours).
    """

    profile: Profile = "paper"
    history: int = Field(default=10, ge=0)
    mask_tools: bool = True
    max_prompt_tokens: int = Field(default=12_000, ge=1)
    max_target_tokens: int = Field(default=1_024, ge=1)
    validation_share: float = Field(default=0.1, gt=0, lt=1)


class RewardRecipe(_Section):
    """The composite sim-to-real reward (app. C.1).

    Attributes:
        encoder: sentence-transformers model (sec. 3.1: Qwen3-Embedding-8B).
        tau_d: threshold of the gap while training (app. B.1, C.1: 0.2 ALFWorld, 0.4 tau2).
        round_to: step of the ROUGE rounding (app. C.1).
    """

    encoder: str = "Qwen/Qwen3-Embedding-8B"
    tau_d: float = Field(default=0.4, gt=0, le=2)
    round_to: float = Field(default=0.2, gt=0, le=1)


class LoraRecipe(_Section):
    """LoRA weights (ours: the paper trains all weights).

    Attributes:
        rank: of the update.
        alpha: scale; the update is multiplied by ``alpha / rank``.
        targets: layers that are updated; ``all-linear`` for every linear one.
    """

    rank: int = Field(default=16, ge=1)
    alpha: int = Field(default=32, ge=1)
    targets: Literal["all-linear"] | tuple[str, ...] = "all-linear"


class WarmStartRecipe(_Section):
    """A short WM SFT before GRPO (ours; for models too small to follow the tag format).

    Attributes:
        steps: optimiser steps; 0 for none, as in the paper.
        batch_size: examples a step (app. B: 32).
        micro_batch_size: examples per forward pass; the rest is accumulated.
        learning_rate: peak (app. B: 2e-6 for all weights; LoRA wants more: ours).
        save_steps: steps from one checkpoint to the next; 0 for none (ours).
    """

    steps: int = Field(default=0, ge=0)
    batch_size: int = Field(default=32, ge=1)
    micro_batch_size: int = Field(default=4, ge=1)
    learning_rate: float = Field(default=2e-6, gt=0)
    save_steps: int = Field(default=50, ge=0)

    @model_validator(mode="after")
    def _whole_micro_batches(self) -> WarmStartRecipe:
        if self.batch_size % self.micro_batch_size:
            raise ValueError("batch_size must be a multiple of micro_batch_size")
        return self


class GrpoRecipe(_Section):
    """GRPO as in sec. 2.3.

    Attributes:
        steps: optimiser steps (app. B: 2 epochs).
        group_size: G, completions of one prompt (app. B, C: 8 ALFWorld, 16 tau2).
        prompts_per_step: groups of one optimiser step (app. B: batch 32).
        groups_per_pass: groups that one process runs at once; the rest of a step is accumulated
            (ours: 1).
        num_iterations: optimiser passes over one generation (ours: 1).
        learning_rate: app. B: 1e-6 for all weights.
        max_new_tokens: longest completion (ours).
        temperature: of sampling (sec. 2.2: 1.0).
        beta: weight of the KL term (ours: the paper has the term and gives no number).
        epsilon: clip of the ratio (ours: GRPO's usual 0.2).
        loss_type: ``grpo``; TRL's own default is another.
        shared_prefix: run the prompt of a group once, where the model can (ours; same gradients).
        save_steps: steps from one checkpoint to the next; 0 for none (ours).
    """

    steps: int = Field(default=100, ge=1)
    group_size: int = Field(default=8, ge=2)
    prompts_per_step: int = Field(default=1, ge=1)
    groups_per_pass: int = Field(default=1, ge=1)
    num_iterations: int = Field(default=1, ge=1)
    learning_rate: float = Field(default=1e-6, gt=0)
    max_new_tokens: int = Field(default=1_024, ge=1)
    temperature: float = Field(default=1.0, gt=0)
    beta: float = Field(default=0.001, ge=0)
    epsilon: float = Field(default=0.2, gt=0)
    loss_type: Literal["grpo"] = "grpo"
    shared_prefix: bool = True
    save_steps: int = Field(default=50, ge=0)

    @model_validator(mode="after")
    def _whole_passes(self) -> GrpoRecipe:
        if self.prompts_per_step % self.groups_per_pass:
            raise ValueError("prompts_per_step must be a multiple of groups_per_pass")
        if self.save_steps % self.num_iterations:
            raise ValueError(
                f"save_steps must be a multiple of num_iterations ({self.num_iterations}): a "
                f"checkpoint between two passes over one generation could not be resumed"
            )
        return self


class EvaluationRecipe(_Section):
    """How held-out rows are predicted (ours).

    Attributes:
        rows: at most so many held-out rows, spread over tasks.
        max_new_tokens: longest prediction.
        batch_size: prompts generated at once.
    """

    rows: int = Field(default=256, ge=1)
    max_new_tokens: int = Field(default=1_024, ge=1)
    batch_size: int = Field(default=8, ge=1)


class Recipe(_Section):
    """A complete training setting.

    Attributes:
        name: of the recipe.
        model: folder or hub name of the model to train.
        dtype: of the weights.
        seed: of splitting, shuffling, sampling.
    """

    name: str
    model: str
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    seed: int = 0
    data: DataRecipe = DataRecipe()
    reward: RewardRecipe = RewardRecipe()
    lora: LoraRecipe = LoraRecipe()
    warm_start: WarmStartRecipe = WarmStartRecipe()
    grpo: GrpoRecipe = GrpoRecipe()
    evaluation: EvaluationRecipe = EvaluationRecipe()
