"""The quality gate: two versions on the same held-out rows, and what their difference shows."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("sentence_transformers")

from rwml import open_store
from rwml.errors import DatasetError
from rwml.prompts.parsing import format_label
from rwml.testing import make_trajectory
from rwml_trainer.dataset import Row, build_dataset, read_manifest
from rwml_trainer.models import load_tokenizer
from rwml_trainer.recipes import Recipe
from rwml_trainer.serving.quality import compare_versions
from rwml_trainer.serving.registry import Version


@pytest.fixture(scope="module")
def dataset(tiny_recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of 60 tasks: enough that some dozen are held out."""
    folder = tmp_path_factory.mktemp("gate")
    with open_store(f"sqlite:///{folder / 'rwml.db'}") as store:
        for task in range(60):
            store.add(make_trajectory(task, length=1))
        tokenizer = load_tokenizer(tiny_recipe.model)
        build_dataset(store, folder / "data", recipe=tiny_recipe, tokenizer=tokenizer)
    return folder / "data"


def version(dataset: Path, tiny_model: Path, step: int, **changes: Any) -> Version:
    known = {
        "name": "world",
        "step": step,
        "folder": str(tiny_model),
        "source": str(tiny_model),
        "stage": None,
        "profile": None,
        "weights": {},
        "template_sha256": read_manifest(dataset).template_sha256,
        "tools": False,
        "added_at": datetime.now(UTC),
    }
    return Version(**{**known, **changes})


def knows(*steps: int) -> Any:
    """A predictor that is right for these versions, and says nothing for others."""

    def predict(version: Version, rows: Sequence[Row], recipe: Recipe) -> list[str]:
        right = version.step in steps
        return [format_label(row["next_state"]) if right else "" for row in rows]

    return predict


@pytest.mark.parametrize(
    ("right", "verdict"),
    [((2,), "improved"), ((1,), "worse"), ((1, 2), "no difference shown")],
)
def test_what_the_difference_shows(
    dataset: Path, tiny_model: Path, tiny_recipe: Recipe, right: tuple[int, ...], verdict: str
) -> None:
    recipe = tiny_recipe.model_copy(
        update={"evaluation": tiny_recipe.evaluation.model_copy(update={"rows": 40})}
    )
    report: Any = compare_versions(
        dataset,
        candidate=version(dataset, tiny_model, 2),
        current=version(dataset, tiny_model, 1),
        recipe=recipe,
        predict=knows(*right),
    )
    assert report["verdict"] == verdict
    assert report["candidate"]["format_rate"] == float(2 in right)
    assert report["ci95"][0] <= report["difference"] <= report["ci95"][1]


def test_the_real_models_predict(dataset: Path, tiny_model: Path, tiny_recipe: Recipe) -> None:
    report: Any = compare_versions(
        dataset,
        candidate=version(dataset, tiny_model, 2),
        current=version(dataset, tiny_model, 1),
        recipe=tiny_recipe,
    )
    assert report["rows"] == tiny_recipe.evaluation.rows
    assert (report["difference"], report["verdict"]) == (0.0, "no difference shown")


def test_another_template_is_refused(dataset: Path, tiny_model: Path, tiny_recipe: Recipe) -> None:
    with pytest.raises(DatasetError, match="another chat template than that of world@2"):
        compare_versions(
            dataset,
            candidate=version(dataset, tiny_model, 2, template_sha256="x"),
            current=version(dataset, tiny_model, 1),
            recipe=tiny_recipe,
        )
