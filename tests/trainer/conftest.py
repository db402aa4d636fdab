"""What trainer tests share: a store of a small shop, a recipe of the tiny model, a dataset."""

from pathlib import Path
from typing import Any

import pytest

from rwml import open_store
from rwml.testing import make_trajectory
from rwml_trainer.recipes import Recipe, load_recipe

TASKS = 12


@pytest.fixture(scope="session")
def shop_store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """URL of a store with 12 tasks of 3 tool calls and a question each."""
    url = f"sqlite:///{tmp_path_factory.mktemp('shop') / 'rwml.db'}"
    with open_store(url) as store:
        for task in range(TASKS):
            store.add(make_trajectory(task))
    return url


@pytest.fixture(scope="session")
def tiny_recipe(tiny_model: Path) -> Recipe:
    """The demo's recipe on the tiny model, with real MiniLM and very few steps."""
    overrides: dict[str, Any] = {
        "model": str(tiny_model),
        "lora.targets": "all-linear",
        "data.max_prompt_tokens": 600,
        "data.max_target_tokens": 300,
        "warm_start.steps": 2,
        "warm_start.batch_size": 2,
        "warm_start.micro_batch_size": 1,
        "grpo.steps": 2,
        "grpo.group_size": 2,
        "grpo.max_new_tokens": 8,
        "evaluation.max_new_tokens": 8,
        "evaluation.rows": 6,
    }
    return load_recipe("demo", overrides)


@pytest.fixture(scope="session")
def shop_dataset(
    shop_store: str, tiny_recipe: Recipe, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A dataset folder built from the shop's store."""
    from rwml_trainer.dataset import build_dataset
    from rwml_trainer.models import load_tokenizer

    out = tmp_path_factory.mktemp("data") / "shop"
    with open_store(shop_store) as store:
        build_dataset(store, out, recipe=tiny_recipe, tokenizer=load_tokenizer(tiny_recipe.model))
    return out
