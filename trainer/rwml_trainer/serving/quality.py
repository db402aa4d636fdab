"""The quality gate of a promotion: how well two versions predict held-out next states, paired.

It runs where the promotion is asked for, not in the server: both models are loaded there, one after
the other. Only a difference that its interval shows stops a promotion; see `rwml.statistics`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from pydantic import JsonValue

from rwml.errors import DatasetError
from rwml_trainer import runs
from rwml_trainer.dataset import Dataset, Row, read_dataset
from rwml_trainer.recipes import Recipe
from rwml_trainer.serving.registry import Version
from rwml_trainer.settling import settle
from rwml_trainer.trivial_predictors import ConstantPredictor, CopyPredictor
from rwml_trainer.world_eval import Scored, compare, pick_rows, score, summarise

Predict = Callable[[Version, Sequence[Row], Recipe], list[str]]
"""Completions of a version for n rows."""


def compare_versions(
    dataset: Path,
    *,
    candidate: Version,
    current: Version,
    recipe: Recipe,
    predict: Predict | None = None,
) -> dict[str, JsonValue]:
    """Predicts the same held-out rows with both versions.

    Args:
        dataset: folder of a dataset; its held-out rows are predicted.
        candidate: what would be promoted.
        current: what its name means now.
        recipe: its ``evaluation`` and ``reward`` sections decide.
        predict: asks a version; by default its model is loaded.

    Returns:
        Figures of both beside the best trivial predictor (``candidate``, ``current``), and
        ``difference``, ``ci95`` and ``verdict``, which is ``worse`` where the candidate is.

    Raises:
        DatasetError: it is not whole, was built with another chat template, or holds out tasks
            that a version was trained on.
    """
    from rwml_trainer.rewards import make_reward

    data = read_dataset(dataset)
    recipe = settle(recipe, data.manifest)
    for version in (candidate, current):
        _check(data, version)
    rows = pick_rows(data.evaluated, recipe.evaluation.rows)
    reward = make_reward(recipe.reward)
    ask = predict or predict_locally

    def scored(name: str, completions: Sequence[str]) -> Scored:
        return score(name, rows, [[text] for text in completions], reward)

    trivial = [
        scored("constant", ConstantPredictor(data.train).predict(rows)),
        scored("copy_last", CopyPredictor(data.manifest).predict(rows)),
    ]
    found = {
        name: scored(name, ask(version, rows, recipe))
        for name, version in (("candidate", candidate), ("current", current))
    }
    return {
        "rows": len(rows),
        **{name: summarise(each, trivial, seed=recipe.seed) for name, each in found.items()},
        **compare(found["candidate"], found["current"], seed=recipe.seed),
    }


def predict_locally(version: Version, rows: Sequence[Row], recipe: Recipe) -> list[str]:
    """Loads a version's model and completes the prompts of n rows greedily."""
    from rwml_trainer.generation import generate
    from rwml_trainer.models import load_model, load_tokenizer

    model = load_model(version.folder, dtype=recipe.dtype)
    model.eval()
    return generate(
        model,
        load_tokenizer(version.folder),
        [row["prompt"] for row in rows],
        max_new_tokens=recipe.evaluation.max_new_tokens,
        batch_size=recipe.evaluation.batch_size,
    )


def _check(data: Dataset, version: Version) -> None:
    if version.template_sha256 != data.manifest.template_sha256:
        raise DatasetError(
            f"{data.folder} was built with another chat template than that of {version.id}: "
            f"build it again with --model {version.folder}"
        )
    if version.stage is None or not (Path(version.source) / runs.MANIFEST).is_file():
        return
    if data.manifest.evaluated_share > runs.read_run(Path(version.source)).validation_share:
        raise DatasetError(
            f"{data.folder} holds out more tasks than {version.id} was trained without: it would "
            f"be judged on what it has seen"
        )
