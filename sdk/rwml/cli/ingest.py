"""`rwml ingest`: imports what other tools logged."""

from __future__ import annotations

import json as jsonlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from rwml.cli.output import JsonFlag, StoreOption, emit
from rwml.errors import UsageError
from rwml.files import whole_file
from rwml.ingest import Rejected, Summary, ingest_file, known_formats, sniff
from rwml.store import open_store
from rwml.store.urls import store_files

SHOWN_REJECTS = 20
"""Rejects shown to people; `--json` lists up to a thousand (ours)."""


def ingest(
    file: Annotated[Path, typer.Argument(help="JSON lines or a JSON document; may be gzipped.")],
    store: StoreOption,
    format: Annotated[
        str,
        typer.Option(
            help=f"One of {', '.join(known_formats())}; otel and openinference are OTLP-JSON "
            f"spans. auto: by the first records."
        ),
    ] = "auto",
    source: Annotated[
        str | None,
        typer.Option(help="Source of the trajectories; default their own or the format's name."),
    ] = None,
    quarantine: Annotated[
        Path | None,
        typer.Option(help="File for the place and reason of each record that was left out."),
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Import OTel or OpenInference spans, Langfuse or LangSmith exports, OpenAI chat JSONL, ...

    Importing a file again, or one that has grown, gives the same rows. Records that cannot be read
    are left out, counted, and named by line and reason. Exit code 1 when nothing could be imported.

    Example: rwml ingest traces.jsonl --store sqlite:///rwml.db
    """
    _check(file, store, quarantine, format)
    chosen = sniff(file) if format == "auto" else format
    with open_store(store) as opened, _quarantine(quarantine) as rejected, _bar(file) as moved:
        found = ingest_file(
            file, opened, format=chosen, source=source, moved=moved, rejected=rejected
        )
    rejects = [_place(reject) for reject in found.rejects]
    result = {"file": str(file), **asdict(found), "rejects": rejects}
    emit(result, as_json=json, text=_describe(found, rejects, guessed=format == "auto"))
    if not found.trajectories:
        raise typer.Exit(1)


def _check(file: Path, store: str, quarantine: Path | None, format: str) -> None:
    if format != "auto" and format not in known_formats():
        known = ", ".join(("auto", *known_formats()))
        raise UsageError(f"no format {format!r}: use one of {known}")
    if not file.is_file():
        raise UsageError(f"no file {file}: name one that holds the logs")
    if quarantine is None:
        return
    if quarantine.is_dir() or not quarantine.parent.is_dir():
        raise UsageError(f"{quarantine} cannot be a file: name one in a folder that exists")
    if quarantine.resolve() in {file.resolve(), *(f.resolve() for f in store_files(store))}:
        raise UsageError(f"{quarantine} would be written over: name another one")


@contextmanager
def _quarantine(path: Path | None) -> Iterator[Callable[[Rejected], object]]:
    """Writes each reject to a file, for its owner only; to none without a path."""
    if path is None:
        yield lambda reject: None
        return
    with whole_file(path) as temporary, temporary.open("w", encoding="utf-8") as lines:
        yield lambda reject: lines.write(jsonlib.dumps(_place(reject)) + "\n")


@contextmanager
def _bar(file: Path) -> Iterator[Callable[[int], object]]:
    """A progress bar by bytes, on stderr."""
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        console=Console(stderr=True),
    )
    with bar:
        task = bar.add_task("ingest", total=file.stat().st_size)
        yield lambda place: bar.update(task, completed=place)


def _place(reject: Rejected) -> dict[str, object]:
    place = {"line": reject.line, "element": reject.element}
    return {**{k: v for k, v in place.items() if v is not None}, "reason": reject.reason}


def _describe(found: Summary, rejects: list[dict[str, object]], *, guessed: bool) -> str:
    counts = {k: v for k, v in asdict(found).items() if isinstance(v, int) and v}
    lines = [f"read as {found.format}" + (" (by its first records)" if guessed else "")]
    lines += [f"{name.replace('_', ' '):>14} {number}" for name, number in counts.items()]
    for reject in rejects[:SHOWN_REJECTS]:
        place = ", ".join(f"{k} {reject[k]}" for k in ("line", "element") if k in reject)
        lines.append(f"left out: {place or 'a trajectory'}: {reject['reason']}")
    more = found.quarantined - min(len(rejects), SHOWN_REJECTS)
    if more:
        lines.append(f"... and {more} more; --quarantine FILE lists them all")
    return "\n".join(lines)
