"""A dataset of a part of the store: by model, tenant and time; and no more than that."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from rwml import open_store
from rwml.cli.periods import read_time
from rwml.errors import DatasetError, UsageError
from rwml.testing import make_trajectory
from rwml_trainer.dataset.selecting import Selection

MODELS = ("world@1", "world@2", "gpt-4.1")
NOON = datetime(2026, 11, 27, 12, tzinfo=UTC)


@pytest.fixture(scope="module")
def traffic(tmp_path_factory: pytest.TempPathFactory) -> str:
    """URL of a store: 24 conversations of three models, two tenants, an hour apart."""
    url = f"sqlite:///{tmp_path_factory.mktemp('traffic') / 'rwml.db'}"
    with open_store(url) as store:
        for task in range(24):
            made = make_trajectory(task)
            steps = tuple(
                step.model_copy(
                    update={
                        "model": MODELS[task % 3],
                        "started_at": NOON + timedelta(hours=task),
                    }
                )
                for step in made.steps
            )
            tenant = {"tenant": "acme" if task % 2 else "globex"}
            store.add(made.model_copy(update={"steps": steps, "metadata": tenant}))
    return url


def chosen(url: str, **fields: Any) -> list[int]:
    """The tasks that a selection takes."""
    selection = Selection(**fields)
    with open_store(url) as store:
        found = {int(t.task_id or 0) for t in store.transitions() if selection.takes(t)}
    return sorted(found)


@pytest.mark.parametrize(
    ("fields", "takes"),
    [
        ({}, lambda task: True),
        ({"model": "world@1"}, lambda task: task % 3 == 0),
        ({"model": "world"}, lambda task: task % 3 != 2),
        ({"model": "gpt-4.1"}, lambda task: task % 3 == 2),
        ({"model": "worl"}, lambda task: False),
        ({"tenant": "acme"}, lambda task: task % 2 == 1),
        ({"since": NOON + timedelta(hours=3)}, lambda task: task >= 3),
        ({"until": NOON + timedelta(hours=3)}, lambda task: task < 3),
        (
            {"since": NOON + timedelta(hours=2), "tenant": "acme", "model": "world"},
            lambda task: task >= 2 and task % 2 == 1 and task % 3 != 2,
        ),
    ],
)
def test_what_is_taken(traffic: str, fields: dict[str, Any], takes: Any) -> None:
    assert chosen(traffic, **fields) == [task for task in range(24) if takes(task)]


def test_what_does_not_say_is_not_taken(shop_store: str) -> None:
    assert len(chosen(shop_store)) == 12
    for field in ({"model": "world"}, {"tenant": "acme"}, {"since": NOON}):
        assert chosen(shop_store, **field) == []


def test_a_dataset_says_what_it_was_built_from(
    traffic: str, tiny_recipe: Any, tmp_path: Path
) -> None:
    from rwml_trainer.dataset import build_dataset
    from rwml_trainer.models import load_tokenizer

    tokenizer = load_tokenizer(tiny_recipe.model)
    selection = Selection(model="world@1", since=NOON)
    with open_store(traffic) as store:
        manifest = build_dataset(
            store, tmp_path / "a", recipe=tiny_recipe, tokenizer=tokenizer, selection=selection
        )
        assert manifest.transitions == 8 * 4
        assert manifest.selection == selection
        assert sum(manifest.tasks.values()) == 8
        with pytest.raises(DatasetError, match="in this selection"):
            build_dataset(
                store,
                tmp_path / "b",
                recipe=tiny_recipe,
                tokenizer=tokenizer,
                selection=Selection(tenant="nobody"),
            )


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-11-27T12:00:00Z", NOON),
        ("2026-11-27T12:00", NOON),
        ("2026-11-27T14:00+02:00", NOON),
        ("2026-11-27", NOON - timedelta(hours=12)),
        (None, None),
    ],
)
def test_moments(text: str | None, moment: datetime | None) -> None:
    assert read_time(text) == moment


def test_what_is_no_moment_is_refused() -> None:
    with pytest.raises(UsageError, match="a time looks like"):
        read_time("yesterday")
