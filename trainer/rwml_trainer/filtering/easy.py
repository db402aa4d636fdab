"""Drops training rows that are too easy, keeping each with probability p (RWML sec. 2.2, eq. 1).

Easy is what the filter model predicts more often than tau_easy at the data-stage threshold, by the
binary embedding reward for every kind: rounded ROUGE is above 0 for any JSON schema and would call
all tool results easy (ours: the paper is silent). Eq. 1 writes "at least tau_easy", which at 0
would make every sample easy; the text's "above" is used.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rwml.encoders import Encoder
from rwml.errors import DatasetError, RecipeError
from rwml.files import whole_file
from rwml.schema import Kind
from rwml_trainer.dataset.files import Filtered, Row, RowWriter, file_name, kinds_of, stream_rows
from rwml_trainer.dataset.rows import templates_of
from rwml_trainer.dataset.splitting import hash_share
from rwml_trainer.encoders import make_encoder, mark_encoder
from rwml_trainer.filtering.measuring import ProgressBar, measure
from rwml_trainer.filtering.sampling import Sampler, make_sampler
from rwml_trainer.filtering.thresholds import choose_tau_d, training_tau_d
from rwml_trainer.recipes import Recipe
from rwml_trainer.rewards import threshold_for


class EasySampleFilter:
    """Filters a dataset folder that is being built.

    Args:
        recipe: its ``filter`` section decides.
        tokenizer: of the recipe's model.
        progress: makes progress bars.
        encoder: measures the gaps; by default that of the recipe's reward.
        sampler: predicts; by default that of the recipe.
    """

    def __init__(
        self,
        recipe: Recipe,
        *,
        tokenizer: Any,
        progress: ProgressBar,
        encoder: Encoder | None = None,
        sampler: Sampler | None = None,
    ) -> None:
        self._recipe = recipe
        self._tokenizer = tokenizer
        self._progress = progress
        self._encoder = encoder or make_encoder(recipe.reward)
        self._mark = mark_encoder(self._encoder, name=recipe.reward.encoder)  # fails early
        self._sampler = sampler

    def __call__(self, folder: Path, *, on_drop: Callable[[Row], None]) -> Filtered:
        """Rewrites the folder's training rows; `on_drop` is called with each that is dropped.

        Raises:
            AdapterError: some rows could not be predicted; a second try goes on from there.
            DatasetError: nothing is left.
            RecipeError: a kind of row has no threshold.
        """
        recipe = self._recipe
        settings = recipe.filter
        if isinstance(settings.tau_d, Mapping):
            for kind in sorted(kinds_of(folder / file_name("train"))):
                if kind not in settings.tau_d:  # known before anything is predicted
                    raise RecipeError(
                        f"filter.tau_d has no threshold for kind {kind!r}, which training rows "
                        f"are of: add filter.tau_d.{kind}"
                    )
        sampler = self._sampler or make_sampler(
            recipe, folder, tokenizer=self._tokenizer, templates=templates_of(recipe.data)
        )
        criticals = [
            measured.critical
            for measured in measure(
                folder,
                recipe=recipe,
                sampler=sampler,
                encoder=self._encoder,
                progress=self._progress,
            )
        ]
        tau_d = (
            choose_tau_d(criticals, wanted=settings.easy_share)
            if settings.tau_d == "calibrated"
            else settings.tau_d
        )
        easy, kept = self._rewrite(folder / file_name("train"), criticals, tau_d, on_drop)
        if len(criticals) == easy - kept:
            raise DatasetError(
                f"all {easy} training rows are easy at filter.tau_d {tau_d}: lower it, or set "
                f"filter.keep above 0"
            )
        return Filtered(
            recipe=settings,
            tau_d=tau_d,
            training_tau_d=(
                {kind: training_tau_d(value) for kind, value in tau_d.items()}
                if isinstance(tau_d, dict)
                else training_tau_d(tau_d)
            ),
            is_calibrated=settings.tau_d == "calibrated",
            encoder=self._mark,
            rows=len(criticals),
            easy=easy,
            kept=kept,
        )

    def _rewrite(
        self,
        path: Path,
        criticals: list[float],
        tau_d: float | Mapping[Kind, float],
        on_drop: Callable[[Row], None],
    ) -> tuple[int, int]:
        easy = kept = 0
        with whole_file(path, mode=0o666) as temporary, RowWriter(temporary) as writer:
            for row, critical in zip(stream_rows(path), criticals, strict=True):
                if critical < threshold_for(tau_d, row["kind"]):
                    easy += 1
                    if (
                        hash_share(f"keep/{self._recipe.seed}/{row['id']}")
                        >= self._recipe.filter.keep
                    ):
                        on_drop(row)
                        continue
                    kept += 1
                writer.add(row)
        return easy, kept
