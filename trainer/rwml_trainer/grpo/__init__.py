"""GRPO on sim-to-real rewards with TRL (RWML sec. 2.3). The only package that imports trl.

Departures from TRL's defaults: ``loss_type="grpo"`` (TRL: ``dapo``), rewards scaled by the group's
standard deviation, as the paper has it, and the prompt of a group is run once (ours).
"""

from rwml_trainer.grpo.running import grpo_config, run_grpo
from rwml_trainer.grpo.trainer import SharedPrefixTrainer, WorldModelTrainer

__all__ = ["SharedPrefixTrainer", "WorldModelTrainer", "grpo_config", "run_grpo"]
