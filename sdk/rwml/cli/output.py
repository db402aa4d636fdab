"""What every command shares: `--json` on stdout, progress and words on stderr.

With ``--json`` a command prints exactly one JSON object on stdout and nothing else; without it,
a short text for people. Progress always goes to stderr.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from typing import Annotated, Protocol, TypeVar

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from rwml.store import Store

Item = TypeVar("Item")


class Advance(Protocol):
    """Moves a progress bar by one unit, with a short note to show beside it."""

    def __call__(self, note: str = "") -> None:
        """Moves the bar."""
        ...


JsonFlag = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
StoreOption = Annotated[
    str,
    typer.Option("--store", help="Store URL, such as sqlite:///rwml.db.", envvar="RWML_STORE"),
]


def emit(result: Mapping[str, object], *, as_json: bool, text: str) -> None:
    """Prints a command's result: one JSON object, or `text` for people."""
    print(json.dumps(result, ensure_ascii=False, allow_nan=False) if as_json else text)


@contextmanager
def stdout_to_stderr() -> Iterator[None]:
    """Sends what libraries print to stderr, so that stdout carries the result alone."""
    with redirect_stdout(sys.stderr):
        yield


def say(text: str) -> None:
    """One line for people, on stderr."""
    print(text, file=sys.stderr, flush=True)


def track(items: Iterable[Item], *, label: str, total: int | None = None) -> Iterator[Item]:
    """Yields `items` under a progress bar on stderr."""
    with progress(label, total=total if total is not None else _length(items)) as advance:
        for item in items:
            yield item
            advance()


@contextmanager
def progress(label: str, *, total: int | None) -> Iterator[Advance]:
    """A progress bar on stderr; call what it yields once per unit of work."""
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[note]}"),
        console=Console(stderr=True),
    )
    with bar:
        task = bar.add_task(label, total=total, note="")

        def advance(note: str = "") -> None:
            bar.update(task, advance=1, note=note)

        yield advance


def no_trajectory(store: Store, source: str) -> str:
    """What to say of a store that holds nothing of the wanted source."""
    known = ", ".join(sorted(store.stats().by_source)) or "none"
    return f"{store.url} holds no trajectory of source {source!r}: it has {known}"


def _length(items: Iterable[object]) -> int | None:
    try:
        return len(items)  # type: ignore[arg-type]  # an iterator has no length: shown as unknown
    except TypeError:
        return None


def render(*parts: object) -> str:
    """Rich tables and plain texts as they look on this terminal; nothing in them is markup."""
    console = Console(markup=False, highlight=False, emoji=False)
    with console.capture() as capture:
        for part in parts:
            console.print(part, soft_wrap=isinstance(part, str))
    return capture.get().rstrip("\n")


def printable(text: str) -> str:
    """Recorded text without what would steer the terminal: control characters are spelled out."""
    return "".join(c if c.isprintable() or c in "\n\t" else ascii(c)[1:-1] for c in text)
