"""`rwml forget`: removes a subject from a store, and names what was built from it."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from rwml.cli.output import JsonFlag, StoreOption, emit, printable
from rwml.lineage import Affected, find_affected
from rwml.store import Forgotten, Subject, open_store
from rwml.store.rows import from_key

SHOWN_IDS = 10
"""Ids shown of what would be removed (ours)."""

NOT_ERASED = {
    None: "PostgreSQL's own log and backups may still hold the bytes: ask its administrator",
    False: "another process is reading the store, so its log still holds the bytes: run this again",
}


def forget(
    store: StoreOption,
    trajectory: Annotated[str | None, typer.Option(help="Id of one trajectory.")] = None,
    thread: Annotated[str | None, typer.Option(help="Every trajectory of this thread.")] = None,
    match: Annotated[
        str | None,
        typer.Option(
            help="Every trajectory with this text anywhere in it (case by case, no pattern)."
        ),
    ] = None,
    dataset: Annotated[
        list[Path] | None,
        typer.Option(help="Dataset or run folder to look through as well; may be repeated."),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Remove; without it, only report.")] = False,
    json: JsonFlag = False,
) -> None:
    """Remove trajectories for good: from the tables, and from the bytes of the files.

    Without --yes nothing is changed: the report says what would be. Exit code 1 when there is
    nothing to remove. Datasets and runs are named, not changed: build and train them again. Run it
    again with --yes until it finds nothing, if agents were recording meanwhile.

    Example: rwml forget --store sqlite:///rwml.db --match ann@example.org --dataset data --yes
    """
    subject = Subject(trajectory=trajectory, thread=thread, match=match)
    with open_store(store, create=False) as opened:
        total = opened.counts().trajectories
        keys = opened.find(subject)
        # Looked up first: a folder that cannot be read must not be found out too late.
        affected = [find_affected(folder, keys) for folder in dataset or []]
        gone = opened.forget(subject) if yes else None
        if gone is not None and list(gone.keys) != keys:  # recorded in between
            affected = [find_affected(folder, gone.keys) for folder in dataset or []]
    ids = [from_key(key) for key in keys]
    named = {"datasets": [asdict(found) for found in affected]}
    if gone is None:
        result = {"would_remove": len(keys), "ids": ids, **named}
    else:
        result = {
            "removed": len(gone.keys),
            "steps": gone.steps,
            "erased": gone.erased,
            **named,
        }
    emit(result, as_json=json, text=_describe(ids, total, gone, affected))
    if not keys:
        raise typer.Exit(1)


def _describe(ids: list[str], total: int, gone: Forgotten | None, affected: list[Affected]) -> str:
    if not ids:
        return f"found in none of {total} trajectories: nothing to remove"
    if gone is None:
        lines = [
            f"would remove {len(ids)} of {total} trajectories; nothing is changed without --yes"
        ]
        lines += [f"  {printable(name)}" for name in ids[:SHOWN_IDS]]
        lines += [f"  ... and {len(ids) - SHOWN_IDS} more"] if len(ids) > SHOWN_IDS else []
    else:
        lines = [f"removed {len(gone.keys)} trajectories with {gone.steps} steps"]
        if gone.erased is not True:
            lines.append(NOT_ERASED[gone.erased])
    for one in affected:
        of = "" if one.dataset == one.folder else f" (trained on {one.dataset})"
        again = ": make it again" if one.rows else ""
        lines.append(f"{one.folder}{of}: {one.rows} rows come from them{again}")
    return "\n".join(lines)
