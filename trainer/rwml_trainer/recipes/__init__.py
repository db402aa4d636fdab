"""Recipes: complete training settings, checked before any model loads."""

from rwml_trainer.recipes.loading import (
    Resolved,
    load_recipe,
    origins_after,
    origins_of,
    recipe_names,
    resolve_recipe,
)
from rwml_trainer.recipes.schema import (
    ComputeRecipe,
    DataRecipe,
    EvaluationRecipe,
    FilterRecipe,
    GrpoRecipe,
    GuardRecipe,
    LoraRecipe,
    Recipe,
    RewardRecipe,
    RolloutRecipe,
    WarmStartRecipe,
)

__all__ = [
    "ComputeRecipe",
    "DataRecipe",
    "EvaluationRecipe",
    "FilterRecipe",
    "GrpoRecipe",
    "GuardRecipe",
    "LoraRecipe",
    "Recipe",
    "Resolved",
    "RewardRecipe",
    "RolloutRecipe",
    "WarmStartRecipe",
    "load_recipe",
    "origins_after",
    "origins_of",
    "recipe_names",
    "resolve_recipe",
]
