"""Where the filter's predictions come from: a model fine-tuned for it, or one behind LiteLLM.

The fine-tuned filter is a model of its own (RWML sec. 2.2): it learns from the validation rows and
predicts the training rows, and it is kept in the cache, so that it is trained once.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from rwml.files import file_sha256
from rwml.prompts import Templates
from rwml_trainer.asking import Asker
from rwml_trainer.dataset.files import Row, file_name, sft_row, stream_rows
from rwml_trainer.models import (
    best_device,
    cache_folder,
    load_model,
    load_tokenizer,
    model_identity,
    template_sha256,
)
from rwml_trainer.recipes import Recipe, WarmStartRecipe
from rwml_trainer.small_models import resolve_model

OnPrompt = Callable[[int, list[str]], None]


class Sampler(Protocol):
    """Predicts next states of rows, several times each.

    Attributes:
        key: what the predictions depend on, but for the row.
    """

    key: str

    def sample(self, rows: Sequence[Row], seeds: Sequence[Sequence[int]], on_row: OnPrompt) -> None:
        """Calls `on_row` with the place of each row and its completions, one per seed.

        A row whose completions did not all come is left out.
        """
        ...


def make_sampler(
    recipe: Recipe, folder: Path, *, tokenizer: Any, templates: Templates | None
) -> Sampler:
    """The sampler of a recipe.

    Args:
        recipe: its ``filter`` section decides.
        folder: of the dataset, whose validation rows the filter model learns from.
        tokenizer: of the recipe's model.
        templates: of the prompts.
    """
    if recipe.filter.backend == "litellm":
        return AskedSampler(recipe)
    return TunedSampler(recipe, folder, tokenizer=tokenizer, templates=templates)


def sampling_key(recipe: Recipe, **more: object) -> str:
    """Hash of what the predictions of a recipe's filter depend on."""
    settings = recipe.filter.model_dump(
        include={"backend", "api_base", "attempts", "temperature", "max_new_tokens"}
    )
    told = json.dumps({"seed": recipe.seed, **settings, **more}, sort_keys=True)
    return hashlib.sha256(told.encode()).hexdigest()[:32]


class AskedSampler:
    """A model that LiteLLM knows, asked as it is: with the prompt of RWML, reasoning and all."""

    def __init__(self, recipe: Recipe) -> None:
        settings = recipe.filter
        self._settings = settings
        model = settings.model or recipe.model
        self._asker = Asker(
            model,
            api_base=settings.api_base,
            api_key_env=settings.api_key_env,
            concurrency=settings.concurrency,
        )
        self.key = sampling_key(recipe, model=model)

    def sample(self, rows: Sequence[Row], seeds: Sequence[Sequence[int]], on_row: OnPrompt) -> None:
        """See `Sampler`; a row with an unanswered question is left out."""
        options = {
            "temperature": self._settings.temperature,
            "max_tokens": self._settings.max_new_tokens,
        }
        for place, (row, its_seeds) in enumerate(zip(rows, seeds, strict=True)):
            asked = [(row["prompt"], {**options, "seed": s % 2**31}) for s in its_seeds]
            answers = self._asker.ask(asked)
            if None not in answers:
                on_row(place, [answer or "" for answer in answers])


class TunedSampler:
    """A filter model that is fine-tuned on the validation rows at first use, and kept."""

    def __init__(
        self, recipe: Recipe, folder: Path, *, tokenizer: Any, templates: Templates | None
    ) -> None:
        self._recipe = recipe
        self._rows = folder / file_name("validation")
        self._tokenizer = tokenizer
        self._templates = templates
        self._base = resolve_model(recipe.filter.model or recipe.model)
        if recipe.filter.model is not None:
            self._tokenizer = load_tokenizer(self._base)
        self._model: Any = None
        tuned_by = recipe.filter.model_dump(
            include={"epochs", "sft_batch_size", "micro_batch_size", "learning_rate"}
        )
        self.key = sampling_key(
            recipe,
            model=model_identity(self._base),
            rows=file_sha256(self._rows),
            template=template_sha256(self._tokenizer),
            dtype=recipe.dtype,
            lora=recipe.lora.model_dump(mode="json"),
            **tuned_by,
        )

    def sample(self, rows: Sequence[Row], seeds: Sequence[Sequence[int]], on_row: OnPrompt) -> None:
        """See `Sampler`."""
        from rwml_trainer.generation import sample

        settings = self._recipe.filter
        if self._model is None:
            self._model = self._load()
        sample(
            self._model,
            self._tokenizer,
            [sft_row(row, self._templates)["prompt"] for row in rows],
            seeds=seeds,
            temperature=settings.temperature,
            max_new_tokens=settings.max_new_tokens,
            batch_size=settings.batch_size,
            on_prompt=on_row,
        )

    def _load(self) -> Any:
        lora = filter_folder(self.key) / "lora_adapter"
        if not lora.is_dir():
            self._tune(lora)
        model = load_model(self._base, lora=lora, dtype=self._recipe.dtype).merge_and_unload()
        return model.to(best_device()).eval()

    def _tune(self, lora: Path) -> None:
        from transformers import set_seed

        from rwml_trainer.training import fresh_lora
        from rwml_trainer.warm_start import warm_start

        settings = self._recipe.filter
        rows = [sft_row(row, self._templates) for row in stream_rows(self._rows)]
        steps = max(1, math.ceil(settings.epochs * len(rows) / settings.sft_batch_size))
        tuning = WarmStartRecipe(
            steps=steps,
            batch_size=settings.sft_batch_size,
            micro_batch_size=settings.micro_batch_size,
            learning_rate=settings.learning_rate,
        )
        recipe = self._recipe.model_copy(update={"warm_start": tuning})
        set_seed(recipe.seed)
        model = fresh_lora(load_model(self._base, dtype=recipe.dtype), recipe)
        work = lora.parent
        work.mkdir(parents=True, exist_ok=True)
        warm_start(
            model,
            self._tokenizer,
            rows,
            recipe=recipe,
            out=lora,
            scratch=work / ".scratch",
            metrics=work / "metrics.jsonl",
            checkpoints=work / "checkpoints",
        )
        for leftover in (work / ".scratch", work / "checkpoints"):
            shutil.rmtree(leftover, ignore_errors=True)


def filter_folder(key: str) -> Path:
    """Where a filter model and its predictions are kept."""
    return cache_folder() / "filters" / key
