"""What a failed statement says about the database."""

from __future__ import annotations

from sqlalchemy.exc import InterfaceError, OperationalError


def first_line(error: Exception) -> str:
    """What the database itself said, without the statement and its values."""
    return str(getattr(error, "orig", None) or error).splitlines()[0]


def is_out_of_reach(error: Exception) -> bool:
    """Whether the database, rather than a value, is why a write failed."""
    state = str(getattr(getattr(error, "orig", None), "sqlstate", None) or "")
    if state:  # PostgreSQL: data, constraints and limits are a value's; all else may pass
        return not state.startswith(("22", "23", "54"))
    return isinstance(error, (OperationalError, InterfaceError, OSError))
