"""Recipes: complete training settings, checked before any model loads."""

from rwml_trainer.recipes.loading import load_recipe, recipe_names
from rwml_trainer.recipes.schema import (
    DataRecipe,
    EvaluationRecipe,
    GrpoRecipe,
    LoraRecipe,
    Recipe,
    RewardRecipe,
    WarmStartRecipe,
)

__all__ = [
    "DataRecipe",
    "EvaluationRecipe",
    "GrpoRecipe",
    "LoraRecipe",
    "Recipe",
    "RewardRecipe",
    "WarmStartRecipe",
    "load_recipe",
    "recipe_names",
]
