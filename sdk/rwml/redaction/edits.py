"""What redaction changes in a text: spans that are replaced, in the coordinates of the original.

Every pass finds edits in the text that the pass before it left. Composed, they tell where each
placeholder came from, which the work in pieces and the preview need. Pure functions; source: ours.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple


class Edit(NamedTuple):
    """A span and what stands in its place.

    Attributes:
        start: first character that is replaced.
        end: the one after the last.
        replacement: what stands there afterwards, such as ``<EMAIL_1>``.
        kind: what was found, such as ``EMAIL``.
    """

    start: int
    end: int
    replacement: str
    kind: str


Pass = Callable[[str], list[Edit]]
"""Finds edits in a text: in order, without overlaps."""

PLACEHOLDER = re.compile(r"<[A-Z][A-Z0-9_]{0,60}>")
"""What stands for a hidden value; nothing looks inside."""


def apply_edits(text: str, edits: Sequence[Edit], start: int = 0, end: int | None = None) -> str:
    """The text from `start` to `end` with its edits made."""
    parts: list[str] = []
    done = start
    for edit in edits:
        parts += (text[done : edit.start], edit.replacement)
        done = edit.end
    parts.append(text[done:end])
    return "".join(parts)


def compose(first: Sequence[Edit], second: Sequence[Edit]) -> list[Edit]:
    """One list of edits that does `first`, and then `second` on what `first` left."""
    if not first:
        return list(second)
    made: list[Edit] = []
    old = 0
    shift = 0  # from the original to the text between the two lists
    for edit in second:
        while old < len(first) and _end(first[old], shift) <= edit.start:
            made.append(first[old])
            shift = _shifted(first[old], shift)
            old += 1
        start, head, tail = edit.start - shift, "", ""
        if old < len(first) and first[old].start + shift < edit.start:
            start = first[old].start
            head = first[old].replacement[: edit.start - first[old].start - shift]
        end = edit.end - shift
        while old < len(first) and first[old].start + shift < edit.end:
            over = _end(first[old], shift) - edit.end
            tail = first[old].replacement[-over:] if over > 0 else ""
            shift = _shifted(first[old], shift)
            end = first[old].end if over > 0 else edit.end - shift
            old += 1
        made.append(Edit(start, end, head + edit.replacement + tail, edit.kind))
    return [*made, *first[old:]]


def _end(edit: Edit, shift: int) -> int:
    return edit.start + shift + len(edit.replacement)


def _shifted(edit: Edit, shift: int) -> int:
    return shift + len(edit.replacement) - (edit.end - edit.start)
