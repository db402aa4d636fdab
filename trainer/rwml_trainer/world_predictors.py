"""Runs the predictors of an evaluation: constant, base model, warm start, trained."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from pydantic import JsonValue

from rwml.cli.output import Advance
from rwml.errors import DatasetError, ModelError
from rwml_trainer.dataset import Dataset, Row, read_dataset
from rwml_trainer.encoders import check_encoder, mark_encoder
from rwml_trainer.generation import generate
from rwml_trainer.models import load_model, load_tokenizer, template_sha256
from rwml_trainer.recipes import Recipe
from rwml_trainer.rewards import make_reward
from rwml_trainer.runs import Stage, load_stage, read_run, weights_folder
from rwml_trainer.settling import settle
from rwml_trainer.small_models import resolve_model
from rwml_trainer.world_eval import (
    ConstantPredictor,
    Scored,
    clusters,
    compare,
    pick_rows,
    score,
    summarise,
)

STAGES: dict[str, Stage] = {"warm_start": "warm_start", "trained": "trained"}
"""Predictors that need a run, and the stage of its weights."""

ProgressBar = Callable[..., AbstractContextManager[Advance]]


def evaluate(
    dataset: Path,
    predictors: Sequence[str],
    *,
    recipe: Recipe,
    run: Path | None,
    predictions: Path | None,
    progress: ProgressBar,
) -> dict[str, JsonValue]:
    """Evaluates predictors on the same held-out rows.

    Args:
        dataset: dataset folder; its held-out rows are predicted.
        predictors: of ``constant``, ``base``, ``warm_start``, ``trained``; the constant one is
            always computed, since skill is measured against it.
        recipe: its ``evaluation`` and ``reward`` sections decide.
        run: run folder; needed for ``warm_start`` and ``trained``.
        predictions: folder for each predictor's completions, one JSON line per row.
        progress: makes a progress bar.

    Returns:
        Per predictor its figures; ``difference``, ``ci95`` and ``verdict`` of the last predictor
        against the one it started from (warm start, else base), where both were evaluated.

    Raises:
        DatasetError: the dataset is not whole, belongs to another chat template, or holds out
            tasks that the run may have been trained on.
        ModelError: the run is not whole, of another model, or has no such stage.
        RewardError: the run was trained with another encoder.
    """
    data = read_dataset(dataset)
    recipe = settle(recipe, data.manifest)
    base = resolve_model(recipe.model)
    if run is not None:
        _check_run(run, base, data, predictors)
    rows = pick_rows(data.evaluated, recipe.evaluation.rows)
    reward = make_reward(recipe.reward)
    if run is not None:
        encoder = mark_encoder(reward.embedding.encoder, name=recipe.reward.encoder)
        check_encoder(encoder, read_run(run).encoder, of=str(run))
    scored: dict[str, Scored] = {}
    seconds: dict[str, float] = {}
    for name in dict.fromkeys(["constant", *predictors]):
        started = time.monotonic()
        if name == "constant":
            completions = ConstantPredictor(data.train).predict(rows)
        else:
            completions = _complete(name, data, rows, recipe, run, base, progress)
        seconds[name] = round(time.monotonic() - started, 1)
        scored[name] = score(name, rows, completions, reward)
        if predictions is not None:
            _write_predictions(predictions / f"{name}.jsonl", scored[name], completions)
    report: dict[str, JsonValue] = {
        "rows": len(rows),
        "tasks": len(set(clusters(rows))),
    }
    for name, result in scored.items():
        report[name] = summarise(result, scored["constant"], seed=recipe.seed)
    report["seconds"] = dict(seconds)
    if "trained" in scored:
        started_from = "warm_start" if "warm_start" in scored else "base"
        if started_from in scored:
            report.update(compare(scored["trained"], scored[started_from], seed=recipe.seed))
    return report


def _check_run(run: Path, base: str, data: Dataset, predictors: Sequence[str]) -> None:
    """Refuses a run that these predictors cannot use, before anything is generated."""
    trained = read_run(run)
    if trained.base_model != base:
        raise ModelError(
            f"{run} was trained from {trained.base_model}, not from {base}: "
            f"pass --model {trained.base_model}"
        )
    if data.manifest.evaluated_share > trained.validation_share:
        raise DatasetError(
            f"{data.folder} holds out more tasks than {run} was trained without: it would be "
            f"judged on what it has seen; build it with data.validation_share "
            f"{trained.validation_share}"
        )
    for name, stage in STAGES.items():
        if name in predictors:
            weights_folder(run, stage)


def _complete(
    name: str,
    data: Dataset,
    rows: Sequence[Row],
    recipe: Recipe,
    run: Path | None,
    base: str,
    progress: ProgressBar,
) -> list[str]:
    tokenizer = load_tokenizer(base)
    if template_sha256(tokenizer) != data.manifest.template_sha256:
        raise DatasetError(
            f"{data.folder} was built with another chat template than {base}'s: build it again"
        )
    if run and name in STAGES:
        model = load_stage(run, STAGES[name], dtype=recipe.dtype)
    else:
        model = load_model(base, dtype=recipe.dtype)
    model.eval()
    with progress(f"predict: {name}", total=len(rows)) as advance:

        def on_rows(count: int) -> None:
            for _ in range(count):
                advance()

        return generate(
            model,
            tokenizer,
            [row["prompt"] for row in rows],
            max_new_tokens=recipe.evaluation.max_new_tokens,
            batch_size=recipe.evaluation.batch_size,
            on_rows=on_rows,
        )


def _write_predictions(path: Path, scored: Scored, completions: Sequence[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        for place, row in enumerate(scored.rows):
            line = {
                "id": row["id"],
                "kind": row["kind"],
                "tool": row["tool"],
                "completion": completions[place],
                "next_state": row["next_state"],
                "reward": scored.rewards[place],
                "gap": scored.gaps[place],
            }
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
