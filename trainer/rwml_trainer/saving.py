"""Saves what was trained: by one process, whole or not at all, gathered where it is sharded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rwml.files import whole_folder
from rwml_trainer.processes import is_first


def save_trained(trainer: Any, folder: Path) -> None:
    """Saves a trainer's weights; all processes must call it, and go on when they are on disk.

    Args:
        trainer: a transformers Trainer that has trained.
        folder: of the weights; a former one is replaced.
    """
    accelerator = trainer.accelerator
    sharded = trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled
    # all processes give their parts, though only one keeps the whole
    state = accelerator.get_state_dict(trainer.model_wrapped) if sharded else None
    if is_first():
        model = accelerator.unwrap_model(trainer.model)
        if state is not None:
            for name in getattr(model, "all_tied_weights_keys", None) or ():
                state.pop(name, None)  # gathered, it is one more copy of what it is tied to
        save_whole(model, folder, state=state)
    accelerator.wait_for_everyone()


def save_whole(model: Any, folder: Path, *, state: dict[str, Any] | None = None) -> None:
    """Saves weights under a temporary name and renames the folder: whole, or not there.

    Args:
        model: of transformers, or a LoRA adapter around one.
        folder: of the weights.
        state: the weights, where the model itself holds only a part of them.
    """
    told: dict[str, Any] = {} if state is None else {"state_dict": state}
    if hasattr(model, "peft_config"):
        # a KL term makes TRL add a frozen copy of the LoRA adapter, which is not ours to keep
        told["selected_adapters"] = ["default"]
    with whole_folder(folder) as temporary:
        model.save_pretrained(temporary, safe_serialization=True, **told)
