"""Options of commands that look at a period of the recorded traffic, and how people write times."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer

from rwml.errors import UsageError

SinceOption = Annotated[
    str | None, typer.Option("--since", help="Only what began then or later (2026-11-01, in UTC).")
]
UntilOption = Annotated[str | None, typer.Option("--until", help="Only what began before.")]


def read_time(text: str | None) -> datetime | None:
    """A time as people write it; without a zone it is UTC.

    Raises:
        UsageError: it is none.
    """
    if text is None:
        return None
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(
            f"a time looks like 2026-11-01 or 2026-11-01T08:00, not {text!r}"
        ) from None
    return time.astimezone(UTC) if time.tzinfo else time.replace(tzinfo=UTC)
