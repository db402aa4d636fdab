"""`rwml prune`: enforces a retention now, and says what it did."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from rwml.cli.output import JsonFlag, StoreOption, emit
from rwml.errors import UsageError
from rwml.retention import Pruned, Retention
from rwml.store import open_store


def prune(
    store: StoreOption,
    ttl: Annotated[
        str | None,
        typer.Option(help="Remove what was last written longer ago (30d, 12h).", envvar="RWML_TTL"),
    ] = None,
    max_size: Annotated[
        str | None,
        typer.Option(
            help="Bytes that the data may need (5GB); above, the oldest go.",
            envvar="RWML_MAX_SIZE",
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would be removed.")
    ] = False,
    json: JsonFlag = False,
) -> None:
    """Remove the oldest trajectories of a store, and give their space back.

    What was written within the last ten minutes stays, as it may still be growing. Exit code 1 when
    the store is still larger than --max-size for that reason. Recording does the same in the
    background when it is given limits. To wipe a person's data, use 'rwml forget'.

    Example: rwml prune --store sqlite:///rwml.db --ttl 30d --max-size 5GB
    """
    if ttl is None and max_size is None:
        raise UsageError("name a limit: --ttl 30d, --max-size 5GB, or both")
    retention = Retention.parse(ttl, max_size)
    with open_store(store, create=False) as opened:
        done = retention.plan(opened) if dry_run else retention.enforce(opened)
    limit = retention.max_bytes
    within = limit is None or done.bytes_after <= limit
    emit(
        {**asdict(done), "dry_run": dry_run, "within": within},
        as_json=json,
        text=_describe(done, dry_run=dry_run, within=within),
    )
    if not within:
        raise typer.Exit(1)


def _describe(done: Pruned, *, dry_run: bool, within: bool) -> str:
    verb = "would remove" if dry_run else "removed"
    text = (
        f"{verb} {done.trajectories} trajectories and {done.steps} steps; "
        f"the data needs {_megabytes(done.bytes_after)}, before {_megabytes(done.bytes_before)}"
    )
    if within:
        return text
    return (
        f"{text}\nstill above the limit: the rest may be still being recorded; run this again later"
    )


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB"
