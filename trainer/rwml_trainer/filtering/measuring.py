"""Measures how easy each training row is: K predictions, their gaps, one critical gap.

Predictions are made in small parts and kept at once, so that an interruption costs one part.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NamedTuple

from rwml.cli.output import Advance
from rwml.encoders import Encoder, gaps
from rwml.errors import AdapterError
from rwml.prompts import parse_prediction
from rwml_trainer.dataset.files import Row, file_name, stream_rows
from rwml_trainer.dataset.splitting import hash_share
from rwml_trainer.filtering.attempts import Attempts, sample_key
from rwml_trainer.filtering.sampling import Sampler, filter_folder
from rwml_trainer.filtering.thresholds import critical_gap
from rwml_trainer.generation import sampling_seed
from rwml_trainer.recipes import Recipe

PART_ROWS = 64
"""Rows that are predicted together (ours)."""

ProgressBar = Callable[..., AbstractContextManager[Advance]]


class Measured(NamedTuple):
    """A training row and its critical gap: above it, the row is easy."""

    id: str
    kind: str
    tool: str | None
    critical: float


def measure(
    folder: Path,
    *,
    recipe: Recipe,
    sampler: Sampler,
    encoder: Encoder,
    progress: ProgressBar,
    total: int | None = None,
    limit: int | None = None,
) -> Iterator[Measured]:
    """Measures the training rows of a dataset folder, in their order.

    Args:
        folder: of the dataset.
        recipe: its ``filter`` section decides.
        sampler: predicts.
        encoder: measures the gaps.
        progress: makes a progress bar.
        total: rows there are, for the progress bar.
        limit: at most so many rows, the same ones every time.

    Raises:
        AdapterError: some rows could not be predicted; those that could are kept.
    """
    path = folder / file_name("train")
    chosen = _choose(path, limit)
    rows = (row for row in stream_rows(path) if chosen is None or row["id"] in chosen)
    missing = 0
    with (
        Attempts(filter_folder(sampler.key) / "attempts.db") as attempts,
        progress("predict: filter", total=len(chosen) if chosen else total) as advance,
    ):
        for part in _parts(rows):
            found = _predict(part, recipe, sampler, attempts)
            missing += sum(texts is None for texts in found)
            complete = [(r, texts) for r, texts in zip(part, found, strict=True) if texts]
            if not missing:  # else nothing is to be made of them
                yield from _score(complete, encoder, recipe.filter.tau_easy)
            for _ in part:
                advance()
    if missing:
        raise AdapterError(
            f"{missing} training rows got no prediction, the others are kept: look at the model "
            f"of the filter and run the same command again"
        )


def _predict(
    rows: Sequence[Row], recipe: Recipe, sampler: Sampler, attempts: Attempts
) -> list[list[str] | None]:
    keys = [sample_key(row["prompt"]) for row in rows]
    found = attempts.find(keys)
    new = {key: row for key, row in zip(keys, rows, strict=True) if key not in found}
    if new:
        new_keys = list(new)
        seeds = [
            [sampling_seed(recipe.seed, key.hex(), n) for n in range(recipe.filter.attempts)]
            for key in new_keys
        ]

        def on_row(place: int, texts: list[str]) -> None:
            found[new_keys[place]] = texts
            attempts.keep({new_keys[place]: texts})

        sampler.sample(list(new.values()), seeds, on_row)
    return [found.get(key) for key in keys]


def _score(
    predicted: Sequence[tuple[Row, Sequence[str]]], encoder: Encoder, tau_easy: float
) -> Iterator[Measured]:
    states = [[parse_prediction(text).next_state for text in texts] for _, texts in predicted]
    said = [s for row_states in states for s in row_states if s is not None]
    targets = [
        row["next_state"].strip()
        for (row, _), row_states in zip(predicted, states, strict=True)
        for state in row_states
        if state is not None
    ]
    distances = iter(gaps(encoder, said, targets))
    for (row, _), row_states in zip(predicted, states, strict=True):
        its_gaps = [math.inf if state is None else next(distances) for state in row_states]
        critical = critical_gap(its_gaps, tau_easy=tau_easy)
        yield Measured(row["id"], row["kind"], row["tool"], critical)


def _choose(path: Path, limit: int | None) -> set[str] | None:
    if limit is None:
        return None
    ids = (row["id"] for row in stream_rows(path))
    return set(heapq.nsmallest(limit, ids, key=hash_share))


def _parts(rows: Iterator[Row]) -> Iterator[tuple[Row, ...]]:
    part: list[Row] = []
    for row in rows:
        part.append(row)
        if len(part) == PART_ROWS:
            yield tuple(part)
            part = []
    if part:
        yield tuple(part)
