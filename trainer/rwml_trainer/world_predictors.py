"""Runs the predictors of an evaluation: trivial ones, base model, warm start, trained."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import JsonValue

from rwml.cli.output import Advance, say
from rwml.errors import DatasetError, ModelError
from rwml_trainer.dataset import Dataset, Row, Split, read_dataset
from rwml_trainer.encoders import check_encoder, mark_encoder
from rwml_trainer.generation import generate, sample, sampling_seed
from rwml_trainer.models import best_device, load_model, load_tokenizer, template_sha256
from rwml_trainer.recipes import Recipe
from rwml_trainer.rewards import NextStateReward, make_reward
from rwml_trainer.runs import Stage, load_stage, read_run, read_started, weights_sha256
from rwml_trainer.settling import settle
from rwml_trainer.small_models import resolve_model
from rwml_trainer.trivial_predictors import TRIVIAL, ConstantPredictor, CopyPredictor
from rwml_trainer.world_eval import (
    Scored,
    best_trivial,
    clusters,
    compare,
    pick_rows,
    score,
    summarise,
)
from rwml_trainer.world_page import write_page

STAGES: dict[str, Stage] = {"warm_start": "warm_start", "trained": "trained"}
"""Predictors that need a run, and the stage of its weights."""
MODELS = ("base", *STAGES)
"""Predictors that are models, in the order in which they come to be."""

ProgressBar = Callable[..., AbstractContextManager[Advance]]


def evaluate(
    dataset: Path,
    predictors: Sequence[str],
    *,
    recipe: Recipe,
    run: Path | None,
    predictions: Path | None,
    page: Path | None = None,
    progress: ProgressBar,
) -> dict[str, JsonValue]:
    """Evaluates predictors on the same held-out rows.

    Args:
        dataset: dataset folder; its held-out band is predicted, or where it has none its
            validation rows; where it has both, the validation rows are reported beside.
        predictors: of ``base``, ``warm_start``, ``trained``; the trivial ones are always computed,
            since skill is measured against them.
        recipe: its ``evaluation`` and ``reward`` sections decide.
        run: run folder; needed for ``warm_start`` and ``trained``.
        predictions: folder for each predictor's completions, one JSON line per row and seed.
        page: HTML file of the best, worst and most changed predictions.
        progress: makes a progress bar.

    Returns:
        ``split`` that was predicted; figures per predictor; ``difference``, ``ci95``, ``verdict``
        of the trained model against its start (warm start, else base); all such pairs in
        ``comparisons``; the same of ``validation`` rows; ``run``: whose weights these were;
        ``settings``: what the figures depend on, beside rows and weights.

    Raises:
        DatasetError: the dataset is not whole, belongs to another chat template, or holds out
            tasks that the run may have been trained on.
        ModelError: the run is not whole, of another model, or has no such stage.
        RewardError: the run was trained with another encoder.
    """
    data = read_dataset(dataset)
    recipe = settle(recipe, data.manifest)
    base = resolve_model(recipe.model)
    told = None if run is None else _check_run(run, base, data, predictors)
    reward = _reward(recipe, run)
    models = Models(data=data, recipe=recipe, base=base, run=run, progress=progress)
    limit = recipe.evaluation.rows
    rows: dict[Split, list[Row]] = {
        split: pick_rows(data.rows(split), limit) for split in _splits(data, run)
    }
    names = [*TRIVIAL, *(name for name in MODELS if name in predictors)]
    scored, seconds = _judge(names, rows, models, reward)
    first, *others = rows
    report: dict[str, JsonValue] = {
        "split": first,
        "seeds": recipe.evaluation.seeds,
        "settings": _settings(recipe),
        **_report(scored[first], seed=recipe.seed),
        "seconds": dict(seconds),
        "run": told,
    }
    for split in others:
        report[split] = _report(scored[split], seed=recipe.seed)
    if predictions is not None:
        for split, of_split in scored.items():
            _write_predictions(predictions, "" if split == first else f".{split}", of_split)
    if page is not None:
        write_page(page, list(scored[first].values()), report)
    return report


@dataclass(frozen=True, kw_only=True)
class Models:
    """The models that predict, each loaded when it is its turn.

    Attributes:
        data: that is evaluated on.
        recipe: its ``evaluation`` section decides how is predicted.
        base: folder or hub name of the base model.
        run: folder of the run that holds the other ones.
        progress: makes a progress bar.
    """

    data: Dataset
    recipe: Recipe
    base: str
    run: Path | None
    progress: ProgressBar

    def complete(self, name: str, rows: Sequence[Row]) -> list[list[str]]:
        """A model's completions of each row: a greedy one, or a sampled one per seed.

        Raises:
            DatasetError: the dataset was built with another chat template.
        """
        tokenizer = load_tokenizer(self.base)
        if template_sha256(tokenizer) != self.data.manifest.template_sha256:
            raise DatasetError(
                f"{self.data.folder} was built with another chat template than {self.base}'s: "
                f"build it again"
            )
        model = self._load(name).to(best_device()).eval()
        settings = self.recipe.evaluation
        options = {"max_new_tokens": settings.max_new_tokens, "batch_size": settings.batch_size}
        prompts = [row["prompt"] for row in rows]
        with self.progress(f"predict: {name}", total=len(rows)) as advance:
            if not settings.seeds:

                def on_rows(count: int) -> None:
                    for _ in range(count):
                        advance()

                texts = generate(model, tokenizer, prompts, on_rows=on_rows, **options)
                return [[text] for text in texts]
            sampled: dict[int, list[str]] = {}

            def on_prompt(place: int, completions: list[str]) -> None:
                sampled[place] = completions
                advance()

            sample(
                model,
                tokenizer,
                prompts,
                seeds=[self._seeds(row) for row in rows],
                temperature=settings.temperature,
                on_prompt=on_prompt,
                **options,
            )
            return [sampled[place] for place in range(len(rows))]

    def _load(self, name: str) -> Any:
        if self.run and name in STAGES:
            return load_stage(self.run, STAGES[name], dtype=self.recipe.dtype)
        return load_model(self.base, dtype=self.recipe.dtype)

    def _seeds(self, row: Row) -> list[int]:
        """One per seed; the same for every model, so that differences are paired."""
        numbers = range(self.recipe.evaluation.seeds)
        return [sampling_seed(self.recipe.seed, row["id"], number) for number in numbers]


def _settings(recipe: Recipe) -> dict[str, JsonValue]:
    """Reward and sampling; not how fast either goes."""
    return {
        "dtype": recipe.dtype,
        "reward": recipe.reward.model_dump(mode="json", include={"encoder", "tau_d", "round_to"}),
        "evaluation": recipe.evaluation.model_dump(mode="json", exclude={"batch_size", "rows"}),
    }


def _reward(recipe: Recipe, run: Path | None) -> NextStateReward:
    """The reward of a recipe, by the encoder that a run was trained with."""
    reward = make_reward(recipe.reward)
    if run is not None:
        encoder = mark_encoder(reward.embedding.encoder, name=recipe.reward.encoder)
        check_encoder(encoder, read_run(run).encoder, of=str(run))
    return reward


def _judge(
    names: Sequence[str],
    rows: Mapping[Split, Sequence[Row]],
    models: Models,
    reward: NextStateReward,
) -> tuple[dict[Split, dict[str, Scored]], dict[str, float]]:
    """Scored answers by split and predictor, and the seconds that each predictor took."""
    everything = [row for of_split in rows.values() for row in of_split]
    scored: dict[Split, dict[str, Scored]] = {split: {} for split in rows}
    seconds: dict[str, float] = {}
    for name in names:
        started = time.monotonic()
        if name == "constant":
            completions = _alone(ConstantPredictor(models.data.train).predict(everything))
        elif name == "copy_last":
            completions = _alone(CopyPredictor(models.data.manifest).predict(everything))
        else:
            completions = models.complete(name, everything)
        seconds[name] = round(time.monotonic() - started, 1)
        each = iter(completions)
        for split, of_split in rows.items():
            texts = [next(each) for _ in of_split]
            scored[split][name] = score(name, of_split, texts, reward)
    return scored, seconds


def _report(scored: Mapping[str, Scored], *, seed: int) -> dict[str, JsonValue]:
    """Figures of all predictors on the rows of one split, and what was compared."""
    trivial = [scored[name] for name in TRIVIAL]
    rows = trivial[0].rows
    report: dict[str, JsonValue] = {"rows": len(rows), "tasks": len(set(clusters(rows)))}
    for name, result in scored.items():
        report[name] = summarise(result, trivial, seed=seed)
    floor = best_trivial(trivial)
    trained = scored.get("trained")
    before = [scored[name] for name in ("warm_start", "base") if name in scored]
    comparisons = [compare(trained, start, seed=seed) for start in before] if trained else []
    if comparisons:
        told = ("compared", "difference", "ci95", "verdict")
        report.update({key: comparisons[0][key] for key in told})
    last = next((scored[name] for name in reversed(MODELS) if name in scored), None)
    if last is not None:
        comparisons.append(compare(last, floor, seed=seed))
    report["best_trivial"] = floor.name
    report["comparisons"] = list[JsonValue](comparisons)
    return report


def _splits(data: Dataset, run: Path | None) -> list[Split]:
    """The sides that are predicted; first the one that the verdict is about."""
    first = data.manifest.evaluated
    if first == "validation" or not data.validation:
        return [first]
    if run is not None and not _is_unseen("validation", data, run):
        say(f"{run} may have been trained on validation rows of {data.folder}: they are left out")
        return [first]
    return [first, "validation"]


def _check_run(
    run: Path, base: str, data: Dataset, predictors: Sequence[str]
) -> dict[str, JsonValue]:
    """What tells the run's weights; refuses a run that these predictors cannot use."""
    trained = read_run(run)
    if trained.base_model != base:
        raise ModelError(
            f"{run} was trained from {trained.base_model}, not from {base}: "
            f"pass --model {trained.base_model}"
        )
    if not _is_unseen(data.manifest.evaluated, data, run):
        raise DatasetError(
            f"{data.folder} holds out more tasks than {run} was trained without: it would be "
            f"judged on what it has seen; build it with data.validation_share "
            f"{trained.validation_share}"
        )
    hashes: dict[str, JsonValue] = {
        name: weights_sha256(run, stage) for name, stage in STAGES.items() if name in predictors
    }
    return {"name": trained.name, "steps": trained.steps, "weights_sha256": hashes}


def _is_unseen(split: Split, data: Dataset, run: Path) -> bool:
    """Whether a run was trained without a side's rows: on this dataset, or outside its band."""
    if read_started(run).get("dataset") == data.manifest.sha256:
        return True
    return data.manifest.share_of(split) <= read_run(run).validation_share


def _alone(completions: Sequence[str]) -> list[list[str]]:
    return [[completion] for completion in completions]


def _write_predictions(folder: Path, mark: str, scored: Mapping[str, Scored]) -> None:
    """A file for each predictor; lone surrogates become what JSON writes for them."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, result in scored.items():
        path = folder / f"{name}{mark}.jsonl"
        with path.open("w", encoding="utf-8", errors="backslashreplace") as file:
            for line in _lines(result):
                file.write(json.dumps(line, ensure_ascii=False) + "\n")


def _lines(scored: Scored) -> Iterator[dict[str, JsonValue]]:
    """A line for each row and seed."""
    of_rows = zip(scored.rows, clusters(scored.rows), scored.answers, strict=True)
    for row, task, answers in of_rows:
        for number, answer in enumerate(answers):
            yield {
                "id": row["id"],
                "task": task,
                "kind": row["kind"],
                "tool": row["tool"],
                "seed": number,
                "completion": answer.completion,
                "next_state": row["next_state"],
                "reward": answer.reward,
                "gap": answer.gap,
            }
