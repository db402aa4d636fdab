r"""Digits and letters of other alphabets as ASCII, and without characters that cannot be seen.

``ann\u200b@example.com`` and a card in full-width digits are found through their folded form. The
text itself keeps its characters: folding is a list of edits, and those outside of a value that is
hidden are dropped. Source: Unicode (decimal digits, half-width and full-width forms); choice ours.
"""

from __future__ import annotations

import re
import unicodedata

from rwml.redaction.edits import Edit

_UNSEEN = "\u00ad\u200b\u200c\u200d\u200e\u200f\u2060\ufeff"
_DASHES = "\u2010\u2011\u2012\u2013\u2014\u2015\u2212"
_SPACES = "\u00a0\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u202f"
_FOREIGN = re.compile(rf"(?![0-9])\d|[\uff00-\uff5e{_UNSEEN}{_DASHES}{_SPACES}]")


def fold_edits(text: str) -> list[Edit]:
    """Edits (of no kind) that turn look-alikes into ASCII and remove what cannot be seen."""
    edits: list[Edit] = []
    for match in _FOREIGN.finditer(text):
        folded = _fold(match[0])
        if folded != match[0]:
            edits.append(Edit(match.start(), match.end(), folded, ""))
    return edits


def _fold(char: str) -> str:
    if char in _UNSEEN:
        return ""
    if char in _DASHES:
        return "-"
    if char in _SPACES:
        return " "
    if "\uff01" <= char <= "\uff5e":
        return chr(ord(char) - 0xFEE0)
    digit = unicodedata.decimal(char, None)
    return char if digit is None else str(digit)
