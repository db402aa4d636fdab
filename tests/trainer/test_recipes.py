"""Recipes: what ships is valid, and mistakes are explained."""

from pathlib import Path

import pytest

from rwml.errors import RecipeError
from rwml_trainer.recipes import load_recipe, recipe_names


def test_every_shipped_recipe_loads() -> None:
    assert "demo" in recipe_names()
    for name in recipe_names():
        assert load_recipe(name).name == name


def test_overrides_win_and_none_is_skipped() -> None:
    recipe = load_recipe("demo", {"grpo.steps": 3, "data.history": None, "seed": 7})
    assert (recipe.grpo.steps, recipe.seed) == (3, 7)
    assert recipe.data.history == load_recipe("demo").data.history


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model='m'\n[grpo]\nstep=3", "unknown key 'grpo.step': did you mean 'steps'"),
        ("model='m'\nlearning=3", "unknown key 'learning': known keys: .*grpo"),
        ("model='m'\n[grpo]\nsteps=0", "grpo.steps: .*greater than or equal to 1"),
        ("model='m'\n[data]\nprofile='long'", "data.profile"),
        ("[grpo]\nsteps=1", "model: Field required"),
        ("model=", "is not TOML"),
    ],
)
def test_mistakes_are_explained(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(RecipeError, match=message):
        load_recipe(str(path))


def test_an_unknown_recipe_lists_the_known_ones() -> None:
    with pytest.raises(RecipeError, match=r"no recipe 'nothing': name one of .*demo"):
        load_recipe("nothing")
