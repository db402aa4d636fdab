"""Says what a training will need before any weights load: memory, tokens, hours (ours).

Everything is reckoned from the model's config, the recipe and the dataset's counts. Memory is an
estimate to within a fifth or so; hours assume a share of the hardware's peak that is told.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

from pydantic import JsonValue

from rwml.errors import ModelError
from rwml_trainer.dataset import Manifest
from rwml_trainer.recipes import Recipe

GIB = 2**30
PEAK_FLOPS = {"gpu": 989e12, "cpu": 0.2e12}
"""Of an H100 in bfloat16, and of a few CPU cores in float32."""
UTILIZATION = {"gpu": 0.35, "cpu": 0.3}
"""Share of the peak that training reaches (ours)."""
GENERATION_UTILIZATION = {"transformers": 0.03, "vllm-server": 0.15, "vllm-colocate": 0.15}
"""Share of the peak that generation reaches: it waits for memory (ours)."""
OVERHEAD_GIB = {"gpu": 2.0, "cpu": 1.0}
"""Libraries, kernels, fragments (ours)."""
THINKING_TOKENS = 96
"""Reasoning that a completion is assumed to have beside the next state (ours)."""
USABLE = 0.92
"""Share of the memory that a run may fill (ours)."""


@dataclass(frozen=True)
class Shape:
    """What a dense decoder's config says of its size."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    is_tied: bool

    @property
    def parameters(self) -> int:
        """Weights in all."""
        attention = self.hidden * self.head_dim * 2 * (self.heads + self.kv_heads)
        layer = attention + 3 * self.hidden * self.intermediate + 2 * self.hidden
        embeddings = self.vocabulary * self.hidden * (1 if self.is_tied else 2)
        return self.layers * layer + embeddings + self.hidden

    def lora_parameters(self, rank: int, *, share: float) -> int:
        """Weights of a LoRA adapter on `share` of a layer's seven matrices."""
        sides = 2 * (self.hidden + self.heads * self.head_dim)
        sides += 2 * (self.hidden + self.kv_heads * self.head_dim)
        sides += 3 * (self.hidden + self.intermediate)
        return round(self.layers * sides * rank * share)

    @property
    def cache_bytes(self) -> int:
        """Of keys and values of one token, in 2-byte numbers."""
        return 2 * self.layers * self.kv_heads * self.head_dim * 2


KNOWN = {
    "Qwen/Qwen2.5-7B-Instruct": Shape(28, 3584, 18944, 28, 4, 128, 152064, False),
    "Qwen/Qwen3-8B": Shape(36, 4096, 12288, 32, 8, 128, 151936, False),
    "Qwen/Qwen3-4B-Instruct-2507": Shape(36, 2560, 9728, 32, 8, 128, 151936, True),
    "smollm2-135m-instruct": Shape(30, 576, 1536, 9, 3, 64, 49152, True),
}
"""Of the shipped recipes' models, as their configs have them: nothing is downloaded for a plan."""


def read_shape(model: str) -> Shape:
    """Shape of a model: a known one, or a folder's.

    Raises:
        ModelError: it is neither, or its config is not that of a dense decoder.
    """
    if model in KNOWN:
        return KNOWN[model]
    path = Path(model) / "config.json"
    if not path.is_file():
        raise ModelError(
            f"the size of {model} is not known without its config: name a folder, or one of "
            f"{', '.join(KNOWN)}"
        )
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        config = config.get("text_config") or config
        heads, hidden = config["num_attention_heads"], config["hidden_size"]
        if config.get("num_experts") or config.get("num_local_experts"):
            raise ModelError(f"{model} is a mixture of experts: plans reckon dense models only")
        return Shape(
            layers=config["num_hidden_layers"],
            hidden=hidden,
            intermediate=config["intermediate_size"],
            heads=heads,
            kv_heads=config.get("num_key_value_heads") or heads,
            head_dim=config.get("head_dim") or hidden // heads,
            vocabulary=config["vocab_size"],
            is_tied=bool(config.get("tie_word_embeddings", True)),
        )
    except ModelError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{path} is not the config of a decoder: {error}") from error


@dataclass(frozen=True)
class Work:
    """Rows and tokens that a training goes through.

    Attributes:
        rows: training rows, after the filter.
        unfiltered: before it.
        validation: rows that the filter model learns from.
        prompt: tokens of a prompt, mean.
        longest_prompt: the longest of them.
        completion: tokens of a completion, mean.
    """

    rows: int
    unfiltered: int
    validation: int
    prompt: float
    longest_prompt: int
    completion: float

    @classmethod
    def of(cls, recipe: Recipe, manifest: Manifest) -> Work:
        """The work of a recipe on a dataset."""
        done = manifest.filtered
        thinking = 0 if recipe.data.profile == "compact" else THINKING_TOKENS
        said = manifest.tokens["target"].mean + thinking
        return cls(
            rows=manifest.rows["train"],
            unfiltered=done.rows if done else manifest.rows["train"],
            validation=manifest.rows["validation"],
            prompt=manifest.tokens["prompt"].mean,
            longest_prompt=manifest.tokens["prompt"].max,
            completion=min(said, recipe.grpo.max_new_tokens),
        )


def plan(
    recipe: Recipe, manifest: Manifest, *, shape: Shape, memory_gib: float | None = None
) -> dict[str, JsonValue]:
    """What a settled recipe needs on a dataset.

    Args:
        recipe: settled, so that its steps are known.
        manifest: of the dataset.
        shape: of the model.
        memory_gib: of each GPU, or of the machine without one; None for what the recipe says.

    Returns:
        ``fits``; ``memory_gib``: needed, its parts, available, on each GPU; ``tokens``: generated
        and trained; ``hours`` by stage; ``filter_share``: of all computation; ``notes``.
    """
    compute = recipe.compute
    device = "gpu" if compute.gpus else "cpu"
    available = memory_gib or (compute.gpu_memory_gib if compute.gpus else machine_memory_gib())
    work = Work.of(recipe, manifest)
    parts = _memory(recipe, shape, work, available)
    needed = sum(parts.values())
    flops, tokens = _computation(recipe, shape, work)
    hours = {
        stage: round(count / _speed(recipe, stage, device) / 3600, 3)
        for stage, count in flops.items()
    }
    total = sum(flops.values())
    fits = needed <= USABLE * available
    return {
        "fits": fits,
        "memory_gib": {
            "needed": round(needed, 1),
            "available": round(available, 1),
            **{name: round(value, 2) for name, value in parts.items()},
        },
        "parameters": shape.parameters,
        "steps": recipe.grpo.steps,
        "tokens": {name: round(count) for name, count in tokens.items()},
        "hours": {**hours, "total": round(sum(hours.values()), 3)},
        "filter_share": round((flops["filter_sft"] + flops["filter_samples"]) / total, 3),
        "notes": list[JsonValue](_notes(recipe, fits=fits, device=device)),
    }


def machine_memory_gib() -> float:
    """Memory of this machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB


def _memory(recipe: Recipe, shape: Shape, work: Work, available: float) -> dict[str, float]:
    """GiB on the fullest training GPU, by what takes them."""
    compute, grpo = recipe.compute, recipe.grpo
    device = "gpu" if compute.gpus else "cpu"
    sharded = max(1, compute.gpus - compute.vllm_gpus) if compute.sharding != "none" else 1
    width = 2 if recipe.dtype == "bfloat16" else 4
    trained = _trained(recipe, shape)
    is_full = recipe.weights == "full"
    # all weights are kept in float32 beside what they are run in; a LoRA adapter is small
    weights = shape.parameters * (4 if is_full else width) + (0 if is_full else trained * 4)
    completion = min(grpo.max_new_tokens, round(4 * work.completion))
    group, prompts = grpo.group_size, grpo.groups_per_pass
    shared = prompts if _shares_prefix(recipe) else prompts * group
    tokens = shared * work.longest_prompt + prompts * group * completion
    per_token = shape.hidden * width * shape.layers  # checkpointed layer inputs
    one_layer = width * (6 * shape.hidden + 3 * shape.intermediate) + 4 * shape.hidden
    logits = prompts * group * completion * shape.vocabulary * 4 * 2
    cached = prompts * group * (work.longest_prompt + completion) * shape.cache_bytes
    generates = cached if compute.generation == "transformers" else 0
    parts = {
        "weights": weights / sharded,
        "gradients": trained * 4 / sharded,
        "optimizer": trained * 8 / sharded,
        "reference": shape.parameters * width / sharded if is_full and grpo.beta > 0 else 0,
        "activations_and_logits": tokens * (per_token + one_layer) + logits,
    }
    gib = {name: value / GIB for name, value in parts.items()}
    # the cache is freed before the backward pass
    gib["activations_and_logits"] = max(gib["activations_and_logits"], generates / GIB)
    if compute.generation == "vllm-colocate":
        gib["vllm"] = compute.vllm_gpu_memory_utilization * available
    return gib | {"overhead": OVERHEAD_GIB[device]}


def _shares_prefix(recipe: Recipe) -> bool:
    """Whether the prompt of a group is run once; not with DeepSpeed."""
    return recipe.grpo.shared_prefix and recipe.compute.sharding != "zero3"


def _trained(recipe: Recipe, shape: Shape) -> int:
    if recipe.weights == "full":
        return shape.parameters
    targets = recipe.lora.targets
    share = 1.0 if isinstance(targets, str) else len(targets) / 7
    return shape.lora_parameters(recipe.lora.rank, share=share)


def _computation(
    recipe: Recipe, shape: Shape, work: Work
) -> tuple[dict[str, float], dict[str, float]]:
    """Floating-point operations and tokens of each stage: 2 a weight and token forward."""
    weights = shape.parameters
    grpo, easy, warm = recipe.grpo, recipe.filter, recipe.warm_start
    groups = grpo.steps * grpo.prompts_per_step / grpo.num_iterations
    generated = groups * grpo.group_size * work.completion
    prompts = groups * (1 if _shares_prefix(recipe) else grpo.group_size) * work.prompt
    trained = (prompts + generated) * grpo.num_iterations
    # forward, backward and the repeated forward of checkpointing; and the old or reference pass
    passes = 8 + (2 if grpo.beta > 0 else 0) + (2 if grpo.num_iterations > 1 else 0)
    target = max(work.completion - THINKING_TOKENS, 1)
    sampled = easy.attempts * work.unfiltered * target if easy.enabled else 0.0
    tuned = easy.epochs * work.validation * (work.prompt + target) if easy.enabled else 0.0
    warmed = warm.steps * warm.batch_size * (work.prompt + target)
    flops = {
        "filter_sft": 8 * weights * tuned,
        "filter_samples": 2
        * weights
        * (sampled + (work.unfiltered * work.prompt if sampled else 0)),
        "warm_start": 8 * weights * warmed,
        "generation": 2 * weights * (generated + prompts),
        "grpo": passes * weights * trained,
    }
    tokens = {"generated": generated, "trained": trained, "filter": sampled + tuned}
    return flops, tokens


def _speed(recipe: Recipe, stage: str, device: str) -> float:
    """Operations a second that a stage reaches on the recipe's hardware."""
    compute = recipe.compute
    training = max(1, compute.gpus - compute.vllm_gpus)
    if stage == "filter_samples":
        return PEAK_FLOPS[device] * GENERATION_UTILIZATION["transformers"]
    if stage in ("filter_sft", "warm_start"):
        return PEAK_FLOPS[device] * UTILIZATION[device] * (1 if stage == "filter_sft" else training)
    if stage == "generation":
        generating = compute.vllm_gpus or training
        share = GENERATION_UTILIZATION[compute.generation]
        return PEAK_FLOPS[device] * share * generating
    return PEAK_FLOPS[device] * UTILIZATION[device] * training


def _notes(recipe: Recipe, *, fits: bool, device: str) -> list[str]:
    share = UTILIZATION[device]
    notes = [f"hours assume {share:.0%} of {PEAK_FLOPS[device] / 1e12:g} TFLOP/s per device"]
    if recipe.filter.enabled and recipe.filter.backend == "litellm":
        notes.append("the filter's predictions come from LiteLLM: their hours are not yours")
    if not fits:
        advice = ["fewer grpo.groups_per_pass", "a shorter data.max_prompt_tokens"]
        if recipe.weights == "full":
            advice.insert(0, "weights = 'lora'")
        if device == "gpu" and recipe.compute.sharding == "none":
            advice.insert(0, "compute.sharding with more compute.gpus")
        notes.append(f"it does not fit; try {', '.join(advice)}")
    return notes
