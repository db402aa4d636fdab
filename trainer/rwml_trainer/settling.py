"""Fills in what a recipe leaves to the data: thresholds that are calibrated, steps from epochs."""

from __future__ import annotations

import math
from collections.abc import Mapping

from rwml.errors import DatasetError, RecipeError
from rwml_trainer.dataset import Manifest
from rwml_trainer.recipes import Recipe


def settle(recipe: Recipe, manifest: Manifest) -> Recipe:
    """The recipe as it is run on a dataset; settling it again changes nothing.

    Raises:
        DatasetError: a threshold is to be calibrated, and the dataset was built without.
        RecipeError: there is a threshold for each kind, and rows of another kind to be scored.
    """
    reward = recipe.reward
    if reward.tau_d == "calibrated":
        if manifest.filtered is None:
            raise DatasetError(
                "reward.tau_d is 'calibrated', and the dataset was built without a filter: set "
                "it to what 'rwml calibrate' finds, or build with filter.enabled"
            )
        reward = reward.model_copy(update={"tau_d": manifest.filtered.training_tau_d})
    if isinstance(reward.tau_d, Mapping):
        # tool results are scored by ROUGE, unless embeddings are asked for everywhere
        by_gap = {kind for kinds in manifest.kinds.values() for kind, rows in kinds.items() if rows}
        for kind in sorted(by_gap if reward.type == "embedding" else by_gap - {"tool"}):
            if kind not in reward.tau_d:
                raise RecipeError(
                    f"reward.tau_d has no threshold for kind {kind!r}, which rows of the dataset "
                    f"are of: add reward.tau_d.{kind}"
                )
    rows = manifest.rows["train"]
    grpo, warm = recipe.grpo, recipe.warm_start
    if grpo.epochs is not None:
        steps = max(1, math.ceil(grpo.epochs * rows / grpo.prompts_per_step))
        grpo = grpo.model_copy(update={"steps": steps})
    if warm.epochs is not None:
        warm = warm.model_copy(update={"steps": math.ceil(warm.epochs * rows / warm.batch_size)})
    return recipe.model_copy(update={"reward": reward, "grpo": grpo, "warm_start": warm})
