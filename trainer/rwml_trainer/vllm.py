"""Generation by vLLM while training: what a recipe says of it, as TRL is told.

TRL talks to vLLM by its Python package, also where a server of its own generates, so it must be
installed beside TRL in either case.
"""

from __future__ import annotations

import json
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from packaging.version import Version

from rwml.errors import UsageError
from rwml_trainer.recipes import Recipe

OLDEST, NEWEST = "0.22.0", "0.31.0"
"""Versions of vLLM that TRL 1.16 supports (its ``trl.import_utils``)."""


def check_vllm(recipe: Recipe) -> None:
    """Refuses a recipe that generates by vLLM where it is missing, before anything loads.

    Raises:
        UsageError: vLLM is missing, or of a version that TRL does not support.
    """
    generation = recipe.compute.generation
    if generation == "transformers":
        return
    advice = (
        f"pip install 'vllm>={OLDEST},<={NEWEST}', or set compute.generation = 'transformers' "
        f"and compute.vllm_gpus = 0"
    )
    try:
        found = version("vllm")
    except PackageNotFoundError:
        raise UsageError(f"compute.generation {generation!r} needs vLLM: {advice}") from None
    if not Version(OLDEST) <= Version(Version(found).base_version) <= Version(NEWEST):
        raise UsageError(f"this TRL does not work with vLLM {found}: {advice}")


def vllm_settings(recipe: Recipe) -> dict[str, Any]:
    """Settings of `GRPOConfig` for the generation that a recipe asks for."""
    compute = recipe.compute
    if compute.generation == "transformers":
        return {"use_vllm": False}
    if compute.generation == "vllm-server":
        return {
            "use_vllm": True,
            "vllm_mode": "server",
            "vllm_server_base_url": compute.vllm_url,
        }
    return {
        "use_vllm": True,
        "vllm_mode": "colocate",
        "vllm_gpu_memory_utilization": compute.vllm_gpu_memory_utilization,
        "vllm_tensor_parallel_size": compute.vllm_tensor_parallel,
        "vllm_max_model_length": _longest(recipe),
    }


def server_command(recipe: Recipe) -> list[str] | None:
    """The command that starts the server a recipe asks for; None where it asks for none.

    As TRL 1.16's ``VLLMClient`` documents it: weights come by NCCL, log-probabilities processed.
    Set ``VLLM_SERVER_DEV_MODE=1`` for it: without, vLLM takes no weights.
    """
    compute = recipe.compute
    if compute.generation != "vllm-server":
        return None
    copies = compute.vllm_gpus // compute.vllm_tensor_parallel
    options = {
        "--weight-transfer-config": json.dumps({"backend": "nccl"}),
        "--logprobs-mode": "processed_logprobs",
        "--max-logprobs": "-1",
        "--tensor-parallel-size": str(compute.vllm_tensor_parallel),
        "--data-parallel-size": str(copies),
        "--gpu-memory-utilization": str(compute.vllm_gpu_memory_utilization),
        "--max-model-len": str(_longest(recipe)),
    }
    return ["vllm", "serve", recipe.model, *(part for pair in options.items() for part in pair)]


def _longest(recipe: Recipe) -> int:
    """Tokens of the longest prompt with its completion."""
    return recipe.data.max_prompt_tokens + recipe.grpo.max_new_tokens
