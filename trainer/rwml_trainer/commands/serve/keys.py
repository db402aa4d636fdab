"""`rwml serve keys add | list | revoke`: who may ask a gateway."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from rwml.cli.output import JsonFlag, emit, render
from rwml.errors import UsageError
from rwml_trainer.commands.serve.options import ServingOption

MOST_DAYS = 36_500
"""A hundred years (ours)."""


def add_key(
    name: Annotated[str, typer.Argument(help="Who gets it; recorded traffic names it.")],
    serving: ServingOption,
    model: Annotated[
        list[str] | None,
        typer.Option("--model", help="Only this NAME or NAME@STEP; may be given again."),
    ] = None,
    days: Annotated[float | None, typer.Option("--days", help="Until it expires.")] = None,
    rpm: Annotated[int | None, typer.Option("--rpm", min=1, help="Requests a minute.")] = None,
    json: JsonFlag = False,
) -> None:
    """Make a key. It is shown now and never again.

    Example: rwml serve keys add ci --model retail --days 30 --serving runs/first/serving
    """
    from rwml_trainer.serving.keys import KeyFile

    if days is not None and not 0 < days <= MOST_DAYS:  # nan is neither
        raise UsageError(
            f"--days must be more than 0 and at most {MOST_DAYS}, not {days:g}; leave it out for a "
            f"key that does not expire"
        )
    expires_at = None if days is None else datetime.now(UTC) + timedelta(days=days)
    key = KeyFile(_folder(serving)).add(
        name, expires_at=expires_at, models=tuple(model or ()), rpm_limit=rpm
    )
    emit({"name": name, "key": key}, as_json=json, text=key)


def list_keys(serving: ServingOption, json: JsonFlag = False) -> None:
    """List the keys of a serving folder, without what opens anything.

    Example: rwml serve keys list --serving runs/first/serving
    """
    from rwml_trainer.serving.keys import KeyFile

    keys = KeyFile(_folder(serving)).read()
    table = Table()
    for heading in ("name", "made", "expires", "models", "a minute"):
        table.add_column(heading, overflow="fold")
    for key in keys:
        expires = "never" if key.expires_at is None else f"{key.expires_at:%Y-%m-%d %H:%M}"
        limit = "any" if key.rpm_limit is None else str(key.rpm_limit)
        made = f"{key.created_at:%Y-%m-%d %H:%M}"
        table.add_row(key.name, made, expires, ", ".join(key.models) or "all", limit)
    emit(
        {"keys": [key.model_dump(mode="json", exclude={"sha256"}) for key in keys]},
        as_json=json,
        text=render(table) if keys else "there is no key",
    )


def revoke_key(
    name: Annotated[str, typer.Argument(help="As it was added.")],
    serving: ServingOption,
    json: JsonFlag = False,
) -> None:
    """End a key: a running gateway refuses its next request.

    Example: rwml serve keys revoke ci --serving runs/first/serving
    """
    from rwml_trainer.serving.keys import KeyFile

    KeyFile(_folder(serving)).revoke(name)
    emit({"revoked": name}, as_json=json, text=f"{name} is revoked")


def _folder(serving: Path) -> Path:
    try:
        serving.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise UsageError(f"cannot write to {serving} ({error}): choose another folder") from error
    return serving
