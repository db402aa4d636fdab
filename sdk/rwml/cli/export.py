"""`rwml export`: recorded traffic as a file for other tools."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rwml.cli.output import JsonFlag, StoreOption, emit, no_trajectory, track
from rwml.errors import UsageError
from rwml.exports import Format, export_openai, export_parquet, export_trl
from rwml.extras import require
from rwml.store import open_store
from rwml.store.urls import store_files


def export(
    store: StoreOption,
    out: Annotated[Path, typer.Option(help="File to write; an older one is replaced.")],
    format: Annotated[
        Format,
        typer.Option(
            help="openai: a conversation per line. trl: context and action of each transition. "
            "parquet: a row per transition, messages as JSON."
        ),
    ],
    source: Annotated[str | None, typer.Option(help="Only this source (tau2:retail).")] = None,
    history: Annotated[
        int | None,
        typer.Option(help="Earlier turns in the context (trl, parquet); default all.", min=0),
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Export a store as OpenAI chat JSONL, TRL prompt/completion JSONL, or Parquet.

    The file appears when it is whole, readable by its owner only. Exports are what was recorded:
    GRPO examples of a world model (masked, split, held out) are made by 'rwml build'.

    Example: rwml export --store sqlite:///rwml.db --format openai --out chats.jsonl
    """
    if out.is_dir() or not out.parent.is_dir():
        raise UsageError(f"{out} cannot be a file: name one in a folder that exists")
    if out.resolve() in {file.resolve() for file in store_files(store)}:
        raise UsageError(f"{out} is a file of the store: name another one")
    if format == "openai" and history is not None:
        raise UsageError("--history is for transitions: openai exports whole conversations")
    if format == "parquet":
        require("train", "pyarrow")
    with open_store(store, create=False) as opened:
        counts = opened.counts(source=source)
        if source is not None and not counts.trajectories:
            raise UsageError(no_trajectory(opened, source))
        if format == "openai":
            whole = opened.trajectories(source=source)
            rows = export_openai(track(whole, label="export", total=counts.trajectories), out)
        else:
            parts = opened.transitions(history=history, source=source)
            write = export_trl if format == "trl" else export_parquet
            rows = write(track(parts, label="export", total=counts.transitions), out)
    emit(
        {"out": str(out), "format": format, "rows": rows},
        as_json=json,
        text=f"{rows} rows in {out}",
    )
