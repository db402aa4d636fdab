"""Makes the checkpoints of a transformers Trainer whole, each or not at all.

A training that goes on from one takes the steps that an uninterrupted one would have taken; on
one CPU thread its weights are the same bits (tested with SIGKILL at the file operations of a
save). Nothing is ever loaded here: `rwml_trainer.checkpoints` says what may be.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers.trainer import TRAINING_ARGS_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from rwml_trainer.checkpoints import clear, seal, staging_folder

if TYPE_CHECKING:
    from transformers import Trainer as _Base
else:
    _Base = object


class WholeCheckpoints(_Base):
    """Mixin for a Trainer: checkpoints that are whole, in a folder of their own.

    Args:
        *args: as of the Trainer.
        checkpoints: folder of the checkpoints; `TrainingArguments` say when one is written.
        **kwargs: as of the Trainer.
    """

    def __init__(self, *args: Any, checkpoints: Path, **kwargs: Any) -> None:
        self._checkpoints = checkpoints
        self._staging: Path | None = None
        super().__init__(*args, **kwargs)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Saves under a hidden name and renames; the last step is left to the run's own result."""
        step = self.state.global_step
        if step >= self.state.max_steps:
            return
        staging = staging_folder(self._checkpoints)
        first = self.is_world_process_zero()
        if first:
            clear(staging)
        self.accelerator.wait_for_everyone()
        self._staging = staging
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self._staging = None
        self.accelerator.wait_for_everyone()
        if first:
            written = staging / f"{PREFIX_CHECKPOINT_DIR}-{step}"
            (written / TRAINING_ARGS_NAME).unlink(missing_ok=True)  # a pickle that nothing reads
            seal(written, self._checkpoints, step)
        self.accelerator.wait_for_everyone()

    def _get_output_dir(self, trial: Any) -> str:
        return super()._get_output_dir(trial) if self._staging is None else str(self._staging)

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Writes none: a checkpoint is not a model to publish."""


def saving(save_steps: int) -> dict[str, Any]:
    """Settings of `TrainingArguments` for a checkpoint every `save_steps` steps; 0 for none."""
    if not save_steps:
        return {"save_strategy": "no"}
    return {"save_strategy": "steps", "save_steps": save_steps}
