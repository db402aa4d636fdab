"""Loading models and tokenizers safely: safetensors only, no code from model folders.

Names are local folders or hub names; the hub is never asked for what is a folder. Nothing here
runs at import: torch and transformers are imported inside the functions.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rwml.errors import ModelError
from rwml.extras import require
from rwml.files import folder_sha256
from rwml.prompts.tokenizers import check_model_folder, quiet_libraries
from rwml.prompts.tokenizers import load_tokenizer as load_tokenizer  # by its old address, too

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def load_model(
    name: str, *, lora: Path | None = None, dtype: str = "bfloat16", trainable: bool = False
) -> Any:
    """Loads a causal language model, with a LoRA adapter on top where one is given.

    Args:
        name: folder or hub name of the model.
        lora: folder of a LoRA adapter for it.
        dtype: torch dtype by name.
        trainable: True to go on training the LoRA adapter.

    Returns:
        A `PreTrainedModel`, or a `PeftModel` around one.

    Raises:
        ModelError: the folder is missing, holds no safetensors weights, or does not fit.
    """
    require("train", "transformers", "torch", "peft")
    import torch
    from transformers import AutoModelForCausalLM

    quiet_libraries()
    check_model_folder(name)
    if Path(name).is_dir() and not any(Path(name).glob("*.safetensors")):
        raise ModelError(f"{name} holds no safetensors weights: other formats are not loaded")
    try:
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
            name, dtype=getattr(torch, dtype), trust_remote_code=False, use_safetensors=True
        )
    except (OSError, ValueError) as error:
        raise ModelError(f"cannot load {name}: {error}") from error
    if lora is None:
        return model
    return _with_lora(model, lora, trainable=trainable)


def best_device() -> str:
    """The GPU where there is one, as torch calls it."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def template_sha256(tokenizer: PreTrainedTokenizerBase) -> str:
    """Hash of the chat template: two runs with different ones are not comparable."""
    return hashlib.sha256(str(tokenizer.chat_template).encode()).hexdigest()


def model_identity(name: str) -> str:
    """What tells two models apart: the hash of a folder's files, or a hub name as it is."""
    folder = Path(name)
    if not folder.is_dir():
        return name
    return folder_sha256(folder, suffixes=(".safetensors", ".json", ".jinja"))


def cache_folder() -> Path:
    """Where prepared weights are kept: ``RWML_CACHE``, else ``rwml`` in the user's cache."""
    chosen = os.environ.get("RWML_CACHE")
    if chosen:
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rwml"


def _with_lora(model: PreTrainedModel, lora: Path, *, trainable: bool) -> Any:
    from peft import PeftModel

    if not (lora / "adapter_model.safetensors").is_file():
        raise ModelError(f"{lora} holds no LoRA adapter (adapter_model.safetensors)")
    return PeftModel.from_pretrained(model, str(lora), is_trainable=trainable)
