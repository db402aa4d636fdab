"""`rwml build`: from recorded transitions to a dataset."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from pydantic import JsonValue
from rich.table import Table

from rwml.cli.output import (
    JsonFlag,
    StoreOption,
    emit,
    printable,
    progress,
    render,
    stdout_to_stderr,
    track,
)
from rwml.cli.periods import read_time
from rwml.errors import UsageError
from rwml.extras import require
from rwml.files import write_json
from rwml.prompts import Profile
from rwml.store import Store, open_store
from rwml_trainer.recipes import Recipe, load_recipe

if TYPE_CHECKING:
    from rwml_trainer.dataset import Manifest
    from rwml_trainer.dataset.selecting import Selection

REPORT = "report.json"
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
    from_model: Annotated[
        str | None, typer.Option(help="Only actions of this model: NAME or NAME@STEP.")
    ] = None,
    tenant: Annotated[str | None, typer.Option(help="Only traffic of this tenant.")] = None,
    since: Annotated[str | None, typer.Option(help="Only actions from then on (ISO 8601).")] = None,
    until: Annotated[str | None, typer.Option(help="Only actions before then.")] = None,
    profile: Annotated[Profile | None, typer.Option(help="Prompt profile.")] = None,
    history: Annotated[int | None, typer.Option(help="Earlier turns in the prompt.")] = None,
    encoder: Annotated[str | None, typer.Option(help="Encoder of filter and report.")] = None,
    no_filter: Annotated[bool, typer.Option("--no-filter", help="Keep easy rows.")] = False,
    report: Annotated[
        bool, typer.Option("--report", help="Also write report.json: how predictable it is.")
    ] = False,
    json: JsonFlag = False,
) -> None:
    """Build GRPO examples from a store: a Parquet file of each side, and manifest.json.

    Example: rwml build --store sqlite:///rwml.db --out data
    """
    overrides = {
        "model": model,
        "data.profile": profile,
        "data.history": history,
        "reward.encoder": encoder,
    }
    settings = load_recipe(recipe, overrides)
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out} is a file: name a folder")
    filters = settings.filter.enabled and not no_filter
    from rwml_trainer.dataset.selecting import Selection

    selection = Selection(
        model=from_model, tenant=tenant, since=read_time(since), until=read_time(until)
    )
    with open_store(store, create=False) as opened, stdout_to_stderr():
        manifest, figures = _build(
            opened, out, settings, source, selection, filters=filters, report=report
        )
    left_out = ", ".join(f"{n} {reason}" for reason, n in manifest.dropped.items() if n)
    train, validation = manifest.rows["train"], manifest.rows["validation"]
    held_out = manifest.rows["held_out"]
    lines = [
        f"{train} train, {validation} validation and {held_out} held-out rows in {out}; "
        f"left out of {manifest.transitions} transitions: {left_out or 'none'}"
    ]
    if figures is not None:
        lines += [_table(figures), f"more in {out / REPORT}"]
    emit(
        {
            "train": train,
            "validation": validation,
            "held_out": held_out,
            "tasks": dict(manifest.tasks),
            "kinds": {split: dict(kinds) for split, kinds in manifest.kinds.items()},
            "dropped": dict(manifest.dropped),
            "masking": dict(manifest.masking),
            "filtered": _filtered(manifest),
            "manifest": str(out / "manifest.json"),
            **({} if figures is None else {"report": figures}),
        },
        as_json=json,
        text="\n".join(lines),
    )


def _build(
    opened: Store,
    out: Path,
    settings: Recipe,
    source: str | None,
    selection: Selection,
    *,
    filters: bool,
    report: bool,
) -> tuple[Manifest, dict[str, JsonValue] | None]:
    require("train", "transformers", "pyarrow")
    from rwml_trainer.dataset.build import build_dataset
    from rwml_trainer.dataset.report import Report
    from rwml_trainer.encoders import make_encoder
    from rwml_trainer.models import load_tokenizer
    from rwml_trainer.small_models import resolve_model

    total = opened.counts(source=source).transitions
    tokenizer = load_tokenizer(resolve_model(settings.model))
    encoder = make_encoder(settings.reward) if filters or report else None
    easy_filter = None
    if filters:
        require("train", "torch", "peft", "sentence_transformers")
        from rwml_trainer.filtering import EasySampleFilter

        easy_filter = EasySampleFilter(
            settings, tokenizer=tokenizer, progress=progress, encoder=encoder
        )
    predictability = Report(mask_tools=settings.data.mask_tools) if report else None
    manifest = build_dataset(
        opened,
        out,
        recipe=settings,
        tokenizer=tokenizer,
        source=source,
        selection=selection,
        watch=lambda rows: track(rows, label="build", total=total),
        easy_filter=easy_filter,
        report=predictability,
    )
    if predictability is None:
        return manifest, None
    figures = predictability.figures(encoder)
    write_json(out / REPORT, figures)
    return manifest, figures


def _filtered(manifest: Manifest) -> dict[str, JsonValue] | None:
    done = manifest.filtered
    if done is None:
        return None
    return done.model_dump(mode="json", exclude={"recipe", "encoder"})


def _table(figures: dict[str, JsonValue]) -> str:
    """The report as a table for people."""
    columns = ("rows", "distinct", "repeated", "entropy_bits", "kept")
    table = Table(title="gap: of the commonest next state, and of a copy of the last message")
    table.add_column("", overflow="fold")
    for heading in ("rows", "distinct", "repeated", "bits", "kept", "common", "copy"):
        table.add_column(heading, no_wrap=True, justify="right")
    for part in ("by_kind", "by_tool"):
        groups = figures[part]
        for name, group in (groups if isinstance(groups, dict) else {}).items():
            if isinstance(group, dict):
                trivial = [group["most_frequent"], group["copy_last"]]
                gaps = [t["gap"] if isinstance(t, dict) else None for t in trivial]
                values = [*(group[column] for column in columns), *gaps]
                table.add_row(printable(name), *map(_shown, values))
    return render(table)


def _shown(value: JsonValue) -> str:
    return f"{value:.2f}" if isinstance(value, float) else "-" if value is None else str(value)
