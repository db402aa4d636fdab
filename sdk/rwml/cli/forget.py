"""`rwml forget`: removes a subject from a store, and names what was built from it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer

from rwml.cli.output import JsonFlag, StoreOption, emit, printable
from rwml.exports import FORMATS
from rwml.exports.rewriting import AffectedExport, find_exports, mark_forgotten, remove_rows
from rwml.extras import require
from rwml.lineage import Affected, find_affected
from rwml.store import Forgotten, Store, Subject, open_store
from rwml.store.rows import as_key, from_key

SHOWN_IDS = 10
"""Ids shown of what would be removed (ours)."""

NOT_ERASED = {
    None: "PostgreSQL's own log and backups may still hold the bytes: ask its administrator",
    False: "another process is reading the store, so its log still holds the bytes: run this again",
}
PARQUET_FORMATS = {name for name, spec in FORMATS.items() if spec.columns is not None}
EXPORT_STATES = {
    "intact": "{rows} rows come from them: --exports writes it again without them",
    "changed": "{rows} rows come from them, but it was changed since: edit it by hand",
    "missing": "no longer there; a copy of it can be named with --export-file",
    "unknown": "it has no manifest, so nobody can tell: export it again",
    "rewritten": "written again without {rows} rows",
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
    exports: Annotated[
        bool, typer.Option("--exports", help="Write exports again without them, with --yes.")
    ] = False,
    export_file: Annotated[
        list[Path] | None,
        typer.Option(help="Copy of an export, with its manifest beside it; may be repeated."),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Remove; without it, only report.")] = False,
    json: JsonFlag = False,
) -> None:
    """Remove trajectories for good: from the tables, and from the bytes of the files.

    Without --yes nothing is changed: the report says what would be. Exit code 1 when there is
    nothing to remove, or an export could not be written again. Exports of this store are named,
    and changed with --exports only; datasets and runs are named, not changed: build and train them
    again. Run it again with --yes until it finds nothing, if agents were recording meanwhile.

    Example: rwml forget --store sqlite:///rwml.db --match ann@example.org --dataset data --yes
    """
    subject = Subject(trajectory=trajectory, thread=thread, match=match)
    with open_store(store, create=False) as opened:
        report = _forget(
            opened, store, subject, dataset or [], export_file or [], exports=exports, yes=yes
        )
    emit(report.to_json(), as_json=json, text=_describe(report))
    held = [file for file in report.files if file.rows]
    left = [file for file in held if file.state != "rewritten"]
    if (not report.keys and not held) or (yes and exports and left):
        raise typer.Exit(1)


@dataclass(frozen=True)
class _Report:
    """What was found, and what was done; `gone` is None where nothing was to be changed."""

    keys: list[str]
    total: int
    affected: list[Affected]
    files: list[AffectedExport]
    gone: Forgotten | None

    @property
    def ids(self) -> list[str]:
        return [from_key(key) for key in self.keys]

    def to_json(self) -> dict[str, object]:
        named = {
            "datasets": [asdict(found) for found in self.affected],
            "exports": [asdict(file) for file in self.files],
        }
        if self.gone is None:
            return {"would_remove": len(self.keys), "ids": self.ids, **named}
        gone = {"removed": len(self.gone.keys), "steps": self.gone.steps}
        return {**gone, "erased": self.gone.erased, **named}


def _forget(
    opened: Store,
    url: str,
    subject: Subject,
    folders: list[Path],
    copies: list[Path],
    *,
    exports: bool,
    yes: bool,
) -> _Report:
    total, keys = opened.counts().trajectories, opened.find(subject)
    wanted = set(keys)
    if subject.trajectory is not None:  # an export may still have what the store has not
        wanted.add(as_key(subject.trajectory))
    # Looked up first: what cannot be read or written must not be found out too late.
    affected = [find_affected(folder, keys) for folder in folders]
    files = find_exports(url, wanted, more=copies)
    if not yes:
        return _Report(keys, total, affected, files, None)
    if exports:  # before the store: should one fail, the same subject finds all of them again
        if any(file.format in PARQUET_FORMATS for file in files):
            require("train", "pyarrow")
        files = [remove_rows(file, wanted) for file in files]
    gone = opened.forget(subject)
    if set(gone.keys) - wanted:  # recorded in between
        wanted |= set(gone.keys)
        affected = [find_affected(folder, wanted) for folder in folders]
        files = [file for file in files if file.state == "rewritten"]
        files += find_exports(url, wanted, more=copies)
    for file in files:
        if file.state != "rewritten":
            mark_forgotten(file, wanted)
    return _Report(keys, total, affected, files, gone)


def _describe(report: _Report) -> str:
    ids, gone = report.ids, report.gone
    if not ids:
        lines = [f"found in none of {report.total} trajectories: nothing to remove"]
    elif gone is None:
        number = f"{len(ids)} of {report.total} trajectories"
        lines = [f"would remove {number}; nothing is changed without --yes"]
        lines += [f"  {printable(name)}" for name in ids[:SHOWN_IDS]]
        lines += [f"  ... and {len(ids) - SHOWN_IDS} more"] if len(ids) > SHOWN_IDS else []
    else:
        lines = [f"removed {len(gone.keys)} trajectories with {gone.steps} steps"]
        if gone.erased is not True:
            lines.append(NOT_ERASED[gone.erased])
    for one in report.affected if ids else []:
        of = "" if one.dataset == one.folder else f" (trained on {one.dataset})"
        again = ": make it again" if one.rows else ""
        lines.append(f"{one.folder}{of}: {one.rows} rows come from them{again}")
    for file in report.files:
        lines.append(f"{file.file}: {EXPORT_STATES[file.state].format(rows=file.rows)}")
    return "\n".join(lines)
