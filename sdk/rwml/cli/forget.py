"""`rwml forget`: removes a subject from a store, and names what was built from it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer

from rwml.catching_up import deliver_left
from rwml.cli.output import JsonFlag, StoreOption, emit, printable
from rwml.diagnosis import Spooled, count_spooled
from rwml.exports import FORMATS
from rwml.exports.rewriting import AffectedExport, find_exports, mark_forgotten, remove_rows
from rwml.extras import require
from rwml.lineage import Affected, find_affected
from rwml.redaction import Redaction
from rwml.spool import spool_folder
from rwml.store import Forgotten, Store, Subject, open_store
from rwml.store.erasure import other_keys
from rwml.store.rows import as_key, from_key

SHOWN_IDS = 10
"""Ids shown of what would be removed (ours)."""

NOT_ERASED = {
    None: "PostgreSQL's own log and backups may still hold the bytes: ask its administrator",
    False: "another process is reading the store, so its log still holds the bytes: run this again",
}
OTHER_KEYS = (
    "pseudonyms of {number} other keys are in this store: who is behind them cannot be found from "
    "here. Run this again as the user, or on the machine, that recorded them, or with their "
    "RWML_KEY"
)
UNKNOWN_KEYS = (
    "some pseudonyms are from an older rwml, which did not keep whose key made them: if other "
    "users or machines recorded into this store, run this there too, or with their RWML_KEY"
)
WAITING = {
    False: "{records} records wait on this machine's disk and were not searched: with --yes those "
    "of processes that have ended are written first",
    True: "{records} records wait on this machine's disk and were not searched: they belong to a "
    "process that runs, or to another user. Run this again when they are written",
}
UNREADABLE = (
    "{files} spool files on this machine's disk cannot be read: remove them ('rwml doctor' says "
    "where they are)"
)
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
    again. What processes that ended left on this machine's disk for the store is written to it
    first. Run it again with --yes until it finds nothing, if agents were recording meanwhile.

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


@dataclass(frozen=True, kw_only=True)
class _Report:
    """What was found, and what was done; `gone` is None where nothing was to be changed.

    Attributes:
        delivered: records that waited in the spool and were written first.
        waiting: what was still there when the store was searched.
        other_keys: see `rwml.store.erasure.other_keys`.
    """

    subject: Subject
    keys: list[str]
    total: int
    affected: list[Affected]
    files: list[AffectedExport]
    gone: Forgotten | None
    delivered: int
    waiting: Spooled
    other_keys: int | None

    @property
    def ids(self) -> list[str]:
        return [from_key(key) for key in self.keys]

    def to_json(self) -> dict[str, object]:
        named = {
            "datasets": [asdict(found) for found in self.affected],
            "exports": [asdict(file) for file in self.files],
            "other_keys": self.other_keys,
            "waiting_elsewhere": self.waiting.records,
            "unreadable_files": self.waiting.unreadable,
        }
        if self.gone is None:
            return {"would_remove": len(self.keys), "ids": self.ids, **named}
        gone = {"removed": len(self.gone.keys), "steps": self.gone.steps}
        return {**gone, "erased": self.gone.erased, "delivered": self.delivered, **named}


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
    delivered = deliver_left(opened) if yes else 0
    waiting = count_spooled(spool_folder(opened))
    total, keys = opened.counts().trajectories, opened.find(subject)
    wanted = set(keys)
    if subject.trajectory is not None:  # an export may still have what the store has not
        wanted.add(as_key(subject.trajectory))
    # Looked up first: what cannot be read or written must not be found out too late.
    affected = [find_affected(folder, keys) for folder in folders]
    files = find_exports(url, wanted, more=copies)
    if exports and yes:  # before the store: should one fail, the same subject finds all again
        if any(file.format in PARQUET_FORMATS for file in files):
            require("train", "pyarrow")
        files = [remove_rows(file, wanted) for file in files]
    gone = opened.forget(subject) if yes else None
    if gone and set(gone.keys) - wanted:  # recorded in between
        wanted |= set(gone.keys)
        affected = [find_affected(folder, wanted) for folder in folders]
        files = [file for file in files if file.state == "rewritten"]
        files += find_exports(url, wanted, more=copies)
    for file in files if yes else ():
        if file.state != "rewritten":
            mark_forgotten(file, wanted)
    return _Report(
        subject=subject,
        keys=keys,
        total=total,
        affected=affected,
        files=files,
        gone=gone,
        delivered=delivered,
        waiting=waiting,
        other_keys=other_keys(opened),
    )


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
    return "\n".join([*lines, *_describe_unsearched(report)])


def _describe_unsearched(report: _Report) -> Iterator[str]:
    trajectory, number = report.subject.trajectory, report.other_keys
    # Of an id that nothing is hidden of, no key matters.
    if trajectory is None or Redaction().session(key=b"any").id(trajectory) != trajectory:
        if number is None:
            yield UNKNOWN_KEYS
        elif number:
            yield OTHER_KEYS.format(number=number)
    if report.delivered:
        yield f"{report.delivered} records that waited on this machine's disk were written first"
    if report.waiting.records:
        yield WAITING[report.gone is not None].format(records=report.waiting.records)
    if report.waiting.unreadable:
        yield UNREADABLE.format(files=report.waiting.unreadable)
