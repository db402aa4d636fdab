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
from rwml_trainer.generation import generate
from rwml_trainer.models import load_model, load_tokenizer, template_sha256
from rwml_trainer.recipes import Recipe
from rwml_trainer.rewards import NextStateReward
from rwml_trainer.runs import lora_folder, read_run
from rwml_trainer.small_models import resolve_encoder, resolve_model
from rwml_trainer.world_eval import ConstantPredictor, Scored, compare, pick_rows, score, summarise

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
        DatasetError: the dataset is not whole, or belongs to another chat template.
        ModelError: the run is not whole, or of another model.
    """
    data = read_dataset(dataset)
    base = resolve_model(recipe.model)
    if run is not None and read_run(run).base_model != base:
        raise ModelError(
            f"{run} was trained from {read_run(run).base_model}, not from {base}: "
            f"pass --model {read_run(run).base_model}"
        )
    rows = pick_rows(data.validation, recipe.evaluation.rows)
    reward = NextStateReward(
        encoder=resolve_encoder(recipe.reward.encoder),
        tau_d=recipe.reward.tau_d,
        round_to=recipe.reward.round_to,
    )
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
        "tasks": len({row["task_id"] for row in rows}),
    }
    for name, result in scored.items():
        report[name] = summarise(result, scored["constant"], seed=recipe.seed)
    report["seconds"] = dict(seconds)
    if "trained" in scored:
        started_from = "warm_start" if "warm_start" in scored else "base"
        if started_from in scored:
            report.update(compare(scored["trained"], scored[started_from], seed=recipe.seed))
    return report


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
    lora = None
    if run is not None and name in ("warm_start", "trained"):
        lora = lora_folder(run, "warm_start" if name == "warm_start" else "trained")
    model = load_model(base, lora=lora, dtype=recipe.dtype)
    if lora is not None:
        model = model.merge_and_unload()  # as it is served, rounding included
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
