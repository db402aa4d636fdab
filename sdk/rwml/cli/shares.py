"""Shares as people write them."""

from __future__ import annotations

from rwml.errors import UsageError


def read_share(text: str, option: str) -> float:
    """A share above 0 and at most 1, such as ``5%`` or ``0.05``.

    Raises:
        UsageError: it is none; `option` is where it was written.
    """
    number, percent, rest = text.strip().partition("%")
    try:
        share = float(number) / (100 if percent else 1)
    except ValueError:
        share = -1.0
    if rest.strip() or not 0 < share <= 1:
        raise UsageError(f"{option} is a share such as 5% or 0.05, not {text!r}")
    return share
