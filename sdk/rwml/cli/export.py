"""`rwml export`: recorded traffic as a file for other tools."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from rwml.cli.output import JsonFlag, StoreOption, emit, no_trajectory, track
from rwml.errors import UsageError
from rwml.exports import FORMATS, Exported, Format, Options, export_store
from rwml.exports.exporting import check_out
from rwml.extras import require
from rwml.prompts import Profile
from rwml.store import open_store

REASONS = {
    "empty_next_state": "with an empty next state",
    "no_reward": "without a reward (--unrated takes them)",
    "infrastructure_error": "broken off by an infrastructure error",
}


def export(
    store: StoreOption,
    out: Annotated[Path, typer.Option(help="File to write; an older one is replaced.")],
    format: Annotated[
        Format,
        typer.Option(
            help="openai: a conversation per line. trl: context and action of each transition. "
            "parquet: a row per transition, messages as JSON. verl: the world model's question "
            "and its next state, as verl's RLHF dataset (Parquet). art: OpenPipe ART trajectories."
        ),
    ],
    source: Annotated[str | None, typer.Option(help="Only this source (tau2:retail).")] = None,
    history: Annotated[
        int | None,
        typer.Option(help="Earlier turns in the context (trl, parquet, verl); default all.", min=0),
    ] = None,
    profile: Annotated[
        Profile | None, typer.Option(help="Prompt profile (verl); default paper.")
    ] = None,
    unrated: Annotated[
        bool,
        typer.Option("--unrated", help="Trajectories without a reward too (art), for a judge."),
    ] = False,
    json: JsonFlag = False,
) -> None:
    """Export a store as chat JSONL, TRL, Parquet, verl or ART.

    The file appears when it is whole, readable by its owner only, with a manifest beside it by
    which 'rwml forget' finds its rows. The examples that 'rwml train' takes (masked, split, held
    out) are made by 'rwml build'.

    Example: rwml export --store sqlite:///rwml.db --format openai --out chats.jsonl
    """
    spec = FORMATS[format]
    if spec.whole and history is not None:
        raise UsageError(f"--history is for transitions: {format} exports whole conversations")
    if profile is not None and format != "verl":
        raise UsageError(f"--profile is for verl: {format} has no prompt of a world model")
    if unrated and format != "art":
        raise UsageError(f"--unrated is for art: {format} has no rewards")
    check_out(out, store)
    if spec.columns is not None:
        require("train", "pyarrow")
    with open_store(store, create=False) as opened:
        counts = opened.counts(source=source)
        if source is not None and not counts.trajectories:
            raise UsageError(no_trajectory(opened, source))
        total = counts.trajectories if spec.whole else counts.transitions

        def watch(items: Iterable[Any]) -> Iterator[Any]:
            return track(items, label="export", total=total)

        options = Options(history=history, profile=profile or "paper", unrated=unrated)
        made = export_store(opened, out, format=format, source=source, options=options, watch=watch)
    emit(
        {
            "out": str(out),
            "format": format,
            "rows": made.rows,
            "left_out": dict(made.left_out),
            "manifest": str(made.manifest),
        },
        as_json=json,
        text=_describe(out, made),
    )


def _describe(out: Path, made: Exported) -> str:
    lines = [f"{made.rows} rows in {out}"]
    lines += [f"left out: {number} {REASONS[name]}" for name, number in made.left_out.items()]
    return "\n".join(lines)
