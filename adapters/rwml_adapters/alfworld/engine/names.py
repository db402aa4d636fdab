"""Names that agents read, such as ``desk 1`` for ``desk_bar__plus_02_dot_32_bar_...``.

Source: alfworld's ``Demangler`` (things are numbered down in the order of their ids).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

_SEPARATOR = "_bar_"
_SIGNS = (("_bar_", "|"), ("_minus_", "-"), ("_plus_", "+"), ("_dot_", "."), ("_comma_", ","))


def display_names(ids: Iterable[str]) -> dict[str, str]:
    """Names by id; one without a place, like ``agent1``, ends in a space, as alfworld has it."""
    ordered = sorted(set(ids))
    left = Counter(_kind(identity) for identity in ordered if _SEPARATOR in identity)
    names: dict[str, str] = {}
    for identity in ordered:
        if _SEPARATOR in identity:
            kind = _kind(identity)
            names[identity] = f"{kind} {left[kind]}"
            left[kind] -= 1
        else:
            names[identity] = f"{_plain(identity)} "
    return names


def _kind(identity: str) -> str:
    return _plain(identity.split(_SEPARATOR, 1)[0]) + ("basin" if "basin" in identity else "")


def _plain(text: str) -> str:
    for sign, character in _SIGNS:
        text = text.replace(sign, character)
    return text
