"""`rwml build`: from recorded transitions to a dataset."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rwml.cli.output import JsonFlag, StoreOption, emit, track
from rwml.errors import UsageError
from rwml.extras import require
from rwml.prompts import Profile
from rwml.store import open_store
from rwml_trainer.recipes import load_recipe

RecipeOption = Annotated[str, typer.Option(help="Name of a shipped recipe, or a TOML file.")]
ModelOption = Annotated[
    str | None, typer.Option(help="Model folder or name; by default the recipe's.")
]


def build(
    store: StoreOption,
    out: Annotated[Path, typer.Option(help="Folder of the dataset; an older one is replaced.")],
    recipe: RecipeOption = "demo",
    model: ModelOption = None,
    source: Annotated[str | None, typer.Option(help="Only this source (tau2:retail).")] = None,
    profile: Annotated[Profile | None, typer.Option(help="Prompt profile.")] = None,
    history: Annotated[int | None, typer.Option(help="Earlier turns in the prompt.")] = None,
    json: JsonFlag = False,
) -> None:
    """Build GRPO examples from a store: train.parquet, validation.parquet, manifest.json.

    Example: rwml build --store sqlite:///rwml.db --out data
    """
    overrides = {"model": model, "data.profile": profile, "data.history": history}
    settings = load_recipe(recipe, overrides)
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out} is a file: name a folder")
    with open_store(store, create=False) as opened:
        require("train", "transformers", "pyarrow")
        from rwml_trainer.dataset.build import build_dataset
        from rwml_trainer.models import load_tokenizer
        from rwml_trainer.small_models import resolve_model

        total = opened.counts(source=source).transitions
        manifest = build_dataset(
            opened,
            out,
            recipe=settings,
            tokenizer=load_tokenizer(resolve_model(settings.model)),
            source=source,
            watch=lambda rows: track(rows, label="build", total=total),
        )
    left_out = ", ".join(f"{n} {reason}" for reason, n in manifest.dropped.items() if n)
    train, validation = manifest.rows["train"], manifest.rows["validation"]
    emit(
        {
            "train": train,
            "validation": validation,
            "tasks": dict(manifest.tasks),
            "kinds": {split: dict(kinds) for split, kinds in manifest.kinds.items()},
            "dropped": dict(manifest.dropped),
            "manifest": str(out / "manifest.json"),
        },
        as_json=json,
        text=f"{train} train and {validation} held-out rows (of {manifest.tasks['validation']} "
        f"tasks) in {out}; left out of {manifest.transitions} transitions: {left_out or 'none'}",
    )
