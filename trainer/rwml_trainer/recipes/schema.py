"""The shape of a recipe: frozen pydantic models; an unknown key is an error.

Every setting says where its default comes from: a section of the RWML paper, or "ours". Programs
read that with `origins_of`; a default without an origin fails a test.
"""

from __future__ import annotations

from typing import Literal
from urllib.parse import urlsplit

from pydantic import field_validator, model_validator

from rwml.errors import UsageError
from rwml.prompts import Profile
from rwml.prompts.settings import HISTORY, MAX_PROMPT_TOKENS
from rwml_trainer.recipes.fields import Section, Threshold, setting


class RolloutRecipe(Section):
    """How the target model is rolled out (sec. 2.2): what ``rwml record`` is to be called with.

    Building and training do not read it; it is kept so that the whole setting stands in one place.

    Attributes:
        trials: N, episodes of each training task.
        temperature: of the agent.
        max_steps: longest episode.
    """

    trials: int = setting(3, "app. B.1", ge=1)
    temperature: float = setting(1.0, "sec. 2.2", ge=0)
    max_steps: int = setting(30, "app. B.1", ge=1)


class DataRecipe(Section):
    """How transitions become examples.

    Attributes:
        profile: prompt profile (``paper``: tables A4-A7; ``compact``: ours).
        templates: folder of templates that replace those of the ``paper`` profile.
        history: H, earlier turns in the context.
        mask_tools: replace JSON tool results by their schema.
        drop_invalid_actions: leave out actions that no environment could read.
        max_prompt_tokens: longest prompt, chat template included.
        max_target_tokens: longest next state; longer ones are dropped and counted.
        split_by: ``task`` keeps a task on one side; ``row`` spreads its rows over both.
        validation_share: share of tasks or rows that is not trained on; the filter model learns
            from it.
        held_out_share: share of tasks, fixed by their hash, that no round of training ever sees,
            nor the filter model; evaluation uses them where there are any.
    """

    profile: Profile = setting("paper", "tables A4-A7")
    templates: str | None = setting(None, "ours")
    history: int = setting(HISTORY, "ours: the paper gives no H", ge=0)
    mask_tools: bool = setting(True, "app. C.1")
    drop_invalid_actions: bool = setting(True, "sec. 2.2; what counts as invalid is ours")
    max_prompt_tokens: int = setting(MAX_PROMPT_TOKENS, "ours", ge=1)
    max_target_tokens: int = setting(1_024, "ours", ge=1)
    split_by: Literal["task", "row"] = setting("task", "ours: the paper splits by row")
    validation_share: float = setting(0.1, "sec. 2.2", gt=0, lt=1)
    held_out_share: float = setting(0.05, "ours", ge=0, lt=1)

    @model_validator(mode="after")
    def _something_is_left(self) -> DataRecipe:
        if self.validation_share + self.held_out_share >= 1:
            raise ValueError("validation_share and held_out_share must leave rows to train on")
        return self

    @property
    def untouched_share(self) -> float:
        """Share of tasks, from the start of the hash band, that training never sees."""
        by_task = self.validation_share if self.split_by == "task" else 0.0
        return self.held_out_share + by_task


class FilterRecipe(Section):
    """How samples that are too easy are found and dropped (sec. 2.2, eq. 1).

    Attributes:
        enabled: whether to filter.
        model: model folder or name to fine-tune as the filter; None for the recipe's model.
        backend: where predictions come from: ``transformers``, or a model behind ``litellm``,
            which is asked as it is.
        api_base: of the LiteLLM model; None for the provider's own.
        api_key_env: variable that holds its key; None for the provider's own.
        concurrency: requests at once to a LiteLLM model.
        attempts: K, predictions of each sample.
        temperature: of the predictions.
        max_new_tokens: longest prediction.
        batch_size: predictions generated at once.
        tau_d: threshold of the gap at the data stage, one or by kind.
        easy_share: share of samples that should count as easy, where tau_d is calibrated.
        tau_easy: a sample whose mean reward is above it is easy.
        keep: p, share of easy samples that is kept.
        epochs: of the filter model's fine-tuning.
        sft_batch_size: examples of one optimiser step.
        micro_batch_size: examples per forward pass.
        learning_rate: of the fine-tuning, which is always of a LoRA adapter.
    """

    enabled: bool = setting(True, "sec. 2.2")
    model: str | None = setting(None, "ours: the paper names none")
    backend: Literal["transformers", "litellm"] = setting("transformers", "ours")
    api_base: str | None = setting(None, "ours")
    api_key_env: str | None = setting(None, "ours")
    concurrency: int = setting(8, "ours", ge=1)
    attempts: int = setting(10, "app. B.1", ge=1)
    temperature: float = setting(1.0, "ours: that of the rollouts", gt=0)
    max_new_tokens: int = setting(1_024, "ours", ge=1)
    batch_size: int = setting(40, "ours", ge=1)
    tau_d: Threshold = setting("calibrated", "ours: 0.1 for ALFWorld, 0.15 for tau2 in the paper")
    easy_share: float = setting(0.3, "app. B.1", gt=0, lt=1)
    tau_easy: float = setting(0.0, "app. B.1", ge=0, lt=1)
    keep: float = setting(0.1, "app. B.1", ge=0, le=1)
    epochs: float = setting(2.0, "ours: as WM SFT, app. B", gt=0)
    sft_batch_size: int = setting(32, "ours: as WM SFT, app. B", ge=1)
    micro_batch_size: int = setting(4, "ours", ge=1)
    learning_rate: float = setting(1e-4, "ours: LoRA", gt=0)

    @model_validator(mode="after")
    def _whole_micro_batches(self) -> FilterRecipe:
        if self.sft_batch_size % self.micro_batch_size:
            raise ValueError("sft_batch_size must be a multiple of micro_batch_size")
        return self


class RewardRecipe(Section):
    """The composite sim-to-real reward.

    Attributes:
        type: what is trained on: ``next_state`` is the composite; ``embedding`` its binary part for
            every kind; ``judge`` and ``judge-real`` a model's verdict; ``exact`` equality.
        encoder: sentence-transformers model, or the name of a served one.
        encoder_url: OpenAI-compatible endpoint that serves the encoder; None for a local one.
        encoder_key_env: variable that holds the endpoint's key.
        encoder_batch_size: texts of one forward pass or request.
        tau_d: threshold of the gap while training, one or by kind; ``calibrated`` for what the
            dataset says.
        round_to: step of the ROUGE rounding.
        judge: model that LiteLLM knows.
        judge_url: of an endpoint of one's own.
        judge_key_env: variable that holds its key.
    """

    type: Literal["next_state", "embedding", "judge", "judge-real", "exact"] = setting(
        "next_state", "app. C.1"
    )
    encoder: str = setting("Qwen/Qwen3-Embedding-8B", "sec. 3.1")
    encoder_url: str | None = setting(None, "ours")
    encoder_key_env: str | None = setting(None, "ours")
    encoder_batch_size: int = setting(64, "ours", ge=1)
    tau_d: Threshold = setting(0.4, "app. C.1")
    round_to: float = setting(0.2, "app. C.1", gt=0, le=1)
    judge: str | None = setting(None, "ours: only for the ablation, app. D")
    judge_url: str | None = setting(None, "ours")
    judge_key_env: str | None = setting(None, "ours")


class GuardRecipe(Section):
    """Thresholds at which a training that games its reward is stopped (ours).

    Each is compared with the mean of the last `window` steps; None to log only.

    Attributes:
        window: steps of the mean.
        copies: share of predictions that copy their prompt's last message.
        generic: share of predictions that equal the commonest next states of other rows.
        one_text: share of a step's prompts that get the same prediction, of at least 4 prompts.
        length_ratio: mean length of predictions over that of targets, and its inverse.
    """

    window: int = setting(20, "ours", ge=1)
    copies: float | None = setting(0.5, "ours", gt=0, le=1)
    generic: float | None = setting(0.8, "ours", gt=0, le=1)
    one_text: float | None = setting(0.8, "ours", gt=0, le=1)
    length_ratio: float | None = setting(5.0, "ours", gt=1)


class LoraRecipe(Section):
    """LoRA weights (the paper trains all weights).

    Attributes:
        rank: of the update.
        alpha: scale; the update is multiplied by ``alpha / rank``.
        targets: layers that are updated; ``all-linear`` for every linear one.
    """

    rank: int = setting(16, "ours", ge=1)
    alpha: int = setting(32, "ours", ge=1)
    targets: Literal["all-linear"] | tuple[str, ...] = setting("all-linear", "ours")


class WarmStartRecipe(Section):
    """A short WM SFT before GRPO (ours; for models too small to follow the tag format).

    Attributes:
        steps: optimiser steps; 0 for none, as in the paper.
        epochs: passes over the training rows; decides the steps where it is set.
        batch_size: examples a step.
        micro_batch_size: examples per forward pass; the rest is accumulated.
        learning_rate: peak; LoRA wants more than all weights do.
        save_steps: steps from one checkpoint to the next; 0 for none.
    """

    steps: int = setting(0, "app. B", ge=0)
    epochs: float | None = setting(None, "ours: steps decide", gt=0)
    batch_size: int = setting(32, "app. B", ge=1)
    micro_batch_size: int = setting(4, "ours", ge=1)
    learning_rate: float = setting(2e-6, "app. B", gt=0)
    save_steps: int = setting(50, "ours", ge=0)

    @model_validator(mode="after")
    def _whole_micro_batches(self) -> WarmStartRecipe:
        if self.batch_size % self.micro_batch_size:
            raise ValueError("batch_size must be a multiple of micro_batch_size")
        return self

    def accumulated(self, processes: int) -> int:
        """Forward passes that each of the processes accumulates in a step.

        Raises:
            UsageError: the step cannot be shared among this many processes.
        """
        accumulated, rest = divmod(self.batch_size, self.micro_batch_size * processes)
        if rest:
            raise UsageError(
                f"warm_start.batch_size ({self.batch_size}) must be a multiple of "
                f"warm_start.micro_batch_size times the processes "
                f"({self.micro_batch_size} x {processes})"
            )
        return accumulated


class GrpoRecipe(Section):
    """GRPO as in sec. 2.3.

    Attributes:
        steps: optimiser steps; 0 for none, so that the warm start is all there is: WM SFT alone.
        epochs: passes over the training rows; decides the steps where it is set.
        group_size: G, completions of one prompt.
        prompts_per_step: groups of one optimiser step.
        groups_per_pass: groups that one process runs at once; the rest of a step is accumulated.
        num_iterations: optimiser passes over one generation.
        learning_rate: constant.
        max_new_tokens: longest completion.
        temperature: of sampling.
        beta: weight of the KL term.
        epsilon: clip of the ratio.
        loss_type: ``grpo``; TRL's own default is another.
        shared_prefix: run the prompt of a group once, where the model can; same gradients.
        save_steps: steps from one checkpoint to the next; 0 for none.
    """

    steps: int = setting(100, "ours", ge=0)
    epochs: float | None = setting(None, "ours: steps decide", gt=0)
    group_size: int = setting(8, "app. B: ALFWorld", ge=2)
    prompts_per_step: int = setting(1, "ours: the paper's batch is 32", ge=1)
    groups_per_pass: int = setting(1, "ours", ge=1)
    num_iterations: int = setting(1, "ours", ge=1)
    learning_rate: float = setting(1e-6, "app. B", gt=0)
    max_new_tokens: int = setting(1_024, "ours", ge=1)
    temperature: float = setting(1.0, "sec. 2.2", gt=0)
    beta: float = setting(0.001, "ours: the paper has the term and gives no number", ge=0)
    epsilon: float = setting(0.2, "ours: GRPO's usual", gt=0)
    loss_type: Literal["grpo"] = setting("grpo", "sec. 2.3")
    shared_prefix: bool = setting(True, "ours")
    save_steps: int = setting(50, "ours", ge=0)

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

    def accumulated(self, processes: int) -> int:
        """Forward passes that each of the processes accumulates in a step.

        Raises:
            UsageError: the step cannot be shared among this many processes.
        """
        accumulated, rest = divmod(self.prompts_per_step, self.groups_per_pass * processes)
        if rest:
            raise UsageError(
                f"grpo.prompts_per_step ({self.prompts_per_step}) must be a multiple of "
                f"grpo.groups_per_pass times the processes ({self.groups_per_pass} x {processes})"
            )
        return accumulated


class ComputeRecipe(Section):
    """What a run is meant to run on: ``rwml train --plan`` reckons with it (ours).

    Attributes:
        gpus: in all nodes together; 0 for the CPU.
        gpu_memory_gib: of each GPU.
        sharding: how weights and optimiser are spread over GPUs.
        generation: what generates completions.
        vllm_url: where vLLM answers (server).
        vllm_gpus: of `gpus`, those that vLLM has for itself (server).
        vllm_tensor_parallel: GPUs that one vLLM copy is spread over.
        vllm_gpu_memory_utilization: share of a GPU's memory that vLLM takes.
    """

    gpus: int = setting(1, "ours", ge=0)
    gpu_memory_gib: float = setting(80.0, "ours", gt=0)
    sharding: Literal["none", "zero3", "fsdp2"] = setting("none", "ours")
    generation: Literal["transformers", "vllm-server", "vllm-colocate"] = setting(
        "transformers", "ours"
    )
    vllm_url: str = setting("http://127.0.0.1:8000", "ours: vLLM's own port, on loopback")
    vllm_gpus: int = setting(0, "ours", ge=0)
    vllm_tensor_parallel: int = setting(1, "ours", ge=1)
    vllm_gpu_memory_utilization: float = setting(0.9, "ours", gt=0, lt=1)

    @property
    def processes(self) -> int:
        """Processes that train: one for each GPU that vLLM does not have for itself."""
        return max(1, self.gpus - self.vllm_gpus)

    @field_validator("vllm_url")
    @classmethod
    def _is_a_url(cls, url: str) -> str:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("a URL looks like http://127.0.0.1:8000")
        return url

    @model_validator(mode="after")
    def _some_gpu_trains(self) -> ComputeRecipe:
        if (self.vllm_gpus > 0) != (self.generation == "vllm-server"):
            raise ValueError("vllm_gpus is for generation 'vllm-server', which needs one at least")
        if self.vllm_gpus >= max(self.gpus, 1):
            raise ValueError(f"{self.vllm_gpus} GPUs for vLLM leave none of {self.gpus} to train")
        if self.vllm_gpus % self.vllm_tensor_parallel:
            raise ValueError("vllm_gpus must be a multiple of vllm_tensor_parallel")
        if self.generation == "vllm-colocate" and self.processes % self.vllm_tensor_parallel:
            raise ValueError("vllm_tensor_parallel must divide the GPUs that train (colocate)")
        return self


class EvaluationRecipe(Section):
    """How held-out rows are predicted (ours).

    Attributes:
        rows: at most so many held-out rows, spread over tasks.
        seeds: sampled predictions of each row, one per seed; 0 for one greedy prediction.
        temperature: of the sampled ones.
        max_new_tokens: longest prediction.
        batch_size: predictions generated at once.
    """

    rows: int = setting(256, "ours", ge=1)
    seeds: int = setting(0, "ours: greedy", ge=0)
    temperature: float = setting(1.0, "ours: as in training", gt=0)
    max_new_tokens: int = setting(1_024, "ours", ge=1)
    batch_size: int = setting(8, "ours", ge=1)


class Recipe(Section):
    """A complete training setting.

    Attributes:
        name: of the recipe.
        model: folder or hub name of the model to train.
        weights: what is trained: ``lora`` for a LoRA adapter, ``full`` for every weight (kept in
            float32, run in `dtype`).
        dtype: of the weights.
        seed: of splitting, shuffling, sampling.
    """

    name: str
    model: str
    weights: Literal["lora", "full"] = setting("lora", "ours: the paper trains all weights")
    dtype: Literal["bfloat16", "float32"] = setting("bfloat16", "ours")
    seed: int = setting(0, "ours")
    rollouts: RolloutRecipe = RolloutRecipe()
    data: DataRecipe = DataRecipe()
    filter: FilterRecipe = FilterRecipe()
    reward: RewardRecipe = RewardRecipe()
    guards: GuardRecipe = GuardRecipe()
    lora: LoraRecipe = LoraRecipe()
    warm_start: WarmStartRecipe = WarmStartRecipe()
    grpo: GrpoRecipe = GrpoRecipe()
    compute: ComputeRecipe = ComputeRecipe()
    evaluation: EvaluationRecipe = EvaluationRecipe()

    @model_validator(mode="after")
    def _something_is_trained(self) -> Recipe:
        stages = (self.grpo, self.warm_start)
        if not any(stage.steps or stage.epochs for stage in stages):
            raise ValueError("grpo.steps and warm_start.steps are both 0: nothing to train")
        return self
