"""`rwml calibrate`: thresholds of the gap for a dataset, with the curve behind them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rwml.cli.output import JsonFlag, emit, progress, stdout_to_stderr
from rwml.errors import DatasetError
from rwml.extras import require
from rwml.files import write_json
from rwml_trainer.calibration import By
from rwml_trainer.commands.build import ModelOption, RecipeOption
from rwml_trainer.recipes import load_recipe


def calibrate(
    dataset: Annotated[Path, typer.Argument(help="Dataset, built with --no-filter.")],
    out: Annotated[Path, typer.Option(help="Folder for calibration.json, .png and .toml.")],
    recipe: RecipeOption = "demo",
    model: ModelOption = None,
    encoder: Annotated[str | None, typer.Option(help="Encoder of the reward.")] = None,
    easy_share: Annotated[
        float | None, typer.Option(help="Wanted share of easy samples; by default the recipe's.")
    ] = None,
    by: Annotated[By, typer.Option(help="Show parts by kind or by tool.")] = "kind",
    rows: Annotated[int | None, typer.Option(help="Training rows at most.", min=1)] = None,
    json: JsonFlag = False,
) -> None:
    """Find tau_d for a wanted share of easy samples, and tau_d for training.

    The filter model of the recipe predicts the training rows; what it predicts is kept, and
    'rwml build' with the same recipe uses it again.

    Example: rwml calibrate data --recipe tau2-small --out calibration
    """
    settings = load_recipe(
        recipe, {"model": model, "reward.encoder": encoder, "filter.easy_share": easy_share}
    )
    require("train", "torch", "transformers", "sentence_transformers", "pyarrow", "matplotlib")
    from rwml_trainer.calibration import calibrate as find_thresholds
    from rwml_trainer.calibration import draw_curve, write_recipe
    from rwml_trainer.dataset.files import check_files, read_manifest
    from rwml_trainer.encoders import make_encoder
    from rwml_trainer.filtering import make_sampler, measure
    from rwml_trainer.models import load_tokenizer
    from rwml_trainer.small_models import resolve_model

    manifest = read_manifest(dataset)
    check_files(dataset, manifest)
    if manifest.filtered is not None:
        raise DatasetError(f"{dataset} has lost its easy rows: build it with --no-filter")
    with stdout_to_stderr():
        tokenizer = load_tokenizer(resolve_model(settings.model))
        measured = measure(
            dataset,
            recipe=settings,
            sampler=make_sampler(
                settings, dataset, tokenizer=tokenizer, templates=manifest.templates
            ),
            encoder=make_encoder(settings.reward),
            progress=progress,
            total=manifest.rows["train"],
            limit=rows,
        )
        found = find_thresholds(list(measured), wanted=settings.filter.easy_share, by=by)
        write_json(out / "calibration.json", found)
        draw_curve(found, out / "calibration.png")
        by_kind = write_recipe(found, out / "calibration.toml")
    whole = found["all"]
    assert isinstance(whole, dict)  # noqa: S101  # `calibrate` says so
    lines = [
        f"tau_d {whole['tau_d']} for the data, {whole['training_tau_d']} for training "
        f"({found['rows']} rows); curve in {out / 'calibration.png'}",
        *([f"by kind, to be put into a recipe: {out / 'calibration.toml'}"] if by_kind else []),
        *(str(warning) for warning in found["warnings"] or ()),  # type: ignore[union-attr]
    ]
    shown = {key: whole[key] for key in ("tau_d", "training_tau_d", "easy_share", "never")}
    emit(
        {
            **shown,
            "rows": found["rows"],
            "recipe": found["recipe"],
            "warnings": found["warnings"],
            "out": str(out),
        },
        as_json=json,
        text="\n".join(lines),
    )
