"""One text without what must not be stored: secrets, custom patterns, personal data, in this order.

Short texts are cleaned whole. Longer ones are cleaned in overlapping pieces, so that no call of a
pattern keeps other threads waiting; what begins in one piece and does not end there is hidden up to
its end in the whole text. Cleaning goes on until nothing more is found, so that cleaning a text
again changes nothing. Source: ours.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Sequence

from rwml.content import join, well_formed
from rwml.redaction.detectors import Detector, detect
from rwml.redaction.edits import PLACEHOLDER, Edit, apply_edits, compose
from rwml.redaction.folding import fold_edits
from rwml.redaction.hints import NUMBERS, SECRETS, hint
from rwml.redaction.names import SECRET
from rwml.redaction.personal import Finder, find_cards, find_emails, find_ibans, find_phones
from rwml.redaction.secrets import ROUNDS, SECRET_PASSES

PIECE_CHARS = 32 * 1024
"""Characters that one call of a pattern looks at: a few milliseconds at most (ours)."""
OVERLAP_CHARS = 8 * 1024
"""Characters of a piece that the next one looks at again; a longer match is followed (ours)."""
CONTEXT_CHARS = 256
"""Characters before a piece that tell what stands there (ours)."""

Namer = Callable[[str, str], str]
"""Gives a kind and a value its pseudonym."""

_FINDERS: tuple[tuple[str, Finder], ...] = (
    ("email", find_emails),
    ("iban", find_ibans),
    ("card", find_cards),
    ("phone", find_phones),
)
_END_OF_KEY = re.compile(r"-----END[ A-Z]{0,64}PRIVATE KEY(?:[ ]BLOCK)?-----")
_END_OF_TOKEN = re.compile(r"[\s\"'`<>]")


class TextCleaner:
    """Cleans texts; not thread-safe, as the pseudonyms are not.

    Args:
        secrets: whether secrets are hidden.
        personal: whether personal data is hidden.
        custom: kinds and patterns of the user's own.
        detectors: other finders of personal data.
        name: gives values their pseudonyms.
    """

    def __init__(
        self,
        *,
        secrets: bool,
        personal: bool,
        custom: Sequence[tuple[str, re.Pattern[str]]],
        detectors: Sequence[Detector],
        name: Namer,
    ) -> None:
        self._secrets = secrets
        self._personal = personal
        self._custom = custom
        self._detectors = detectors
        self._name = name
        self._hint = record_hint(secrets=secrets, personal=personal)
        self._hint_besides_email = record_hint(secrets=secrets, personal=personal, email=False)

    def may_hold(self, text: str) -> bool:
        """Whether cleaning a text could change it; quick, and never wrongly False."""
        if len(text) > PIECE_CHARS or not (text.isascii() or well_formed(text) is text):
            return True
        return self._may_find(text)

    def clean(self, text: str, *, allowed: bool = False) -> str:
        """The text without what must not be stored; the same object where nothing is found.

        Args:
            text: lone surrogates in it are replaced.
            allowed: True where only secrets are hidden.
        """
        if len(text) > PIECE_CHARS:
            text = _well_formed_in_pieces(text)
            parts: list[str] = []
            is_changed = False
            for start, end, edits in self._pieces(text, allowed):
                parts.append(apply_edits(text, edits, start, end))
                is_changed = is_changed or bool(edits)
            return join(parts) if is_changed else text
        if not text.isascii():
            text = well_formed(text)
        edits = self.edits(text, allowed=allowed)
        return apply_edits(text, edits) if edits else text

    def edits(self, text: str, *, allowed: bool = False) -> list[Edit]:
        """What is hidden in a well-formed text."""
        if len(text) > PIECE_CHARS:
            return [edit for *_, edits in self._pieces(text, allowed) for edit in edits]
        edits: list[Edit] = []
        current = text
        for _ in range(ROUNDS):
            if not self._may_find(current):
                return edits
            found = self._find(current, allowed) or self._find_folded(current, allowed)
            if not found:
                return edits
            edits = compose(edits, found)
            current = apply_edits(current, found)
        return [Edit(0, len(text), SECRET, "SECRET")]

    def _may_find(self, text: str) -> bool:
        return (
            self._hint(text)
            or bool(self._detectors)
            or any(pattern.search(text) for _, pattern in self._custom)
        )

    def _find(self, text: str, allowed: bool) -> list[Edit]:
        edits: list[Edit] = []
        has_more = self._hint_besides_email(text)  # most texts with something have an address only
        if self._secrets and has_more:
            for group, find in SECRET_PASSES:
                if hint(group).matches(text):
                    text, edits = _then(text, edits, find(text))
        if allowed:
            return edits
        for kind, pattern in self._custom:
            text, edits = _then(text, edits, self._custom_edits(text, kind, pattern))
        if self._personal:
            for group, find in _FINDERS:
                if (group == "email" or has_more) and hint(group).matches(text):
                    named = [
                        Edit(start, end, self._name(kind, value), kind)
                        for start, end, kind, value in find(text)
                    ]
                    text, edits = _then(text, edits, named)
            for detector in self._detectors:
                named = [
                    Edit(start, end, self._name(kind, text[start:end]), kind)
                    for start, end, kind in detect(detector, text)
                ]
                text, edits = _then(text, edits, named)
        return edits

    def _find_folded(self, text: str, allowed: bool) -> list[Edit]:
        if text.isascii() or not hint("folded").matches(text):
            return []
        folding = fold_edits(text)
        found = self._find(apply_edits(text, folding), allowed) if folding else []
        return [edit for edit in compose(folding, found) if edit.kind] if found else []

    def _custom_edits(self, text: str, kind: str, pattern: re.Pattern[str]) -> list[Edit]:
        """Matches between placeholders: what is hidden already is not looked at."""
        edits: list[Edit] = []
        start = 0
        for end, after in [*(m.span() for m in PLACEHOLDER.finditer(text)), (len(text), 0)]:
            for match in pattern.finditer(text, start, end):
                if match[0]:
                    edits.append(Edit(*match.span(), self._name(kind, match[0]), kind))
            start = after
        return edits

    def _pieces(self, text: str, allowed: bool) -> Iterator[tuple[int, int, list[Edit]]]:
        """Parts of a long text, from where to where, with what is hidden in them."""
        place = 0
        is_cut = True  # whether a placeholder stands before `place`, or nothing
        while place < len(text):
            begin = place if is_cut else max(0, place - CONTEXT_CHARS)
            end = min(len(text), begin + PIECE_CHARS)
            core = end if end == len(text) else end - OVERLAP_CHARS
            edits: list[Edit] = []
            for edit in self.edits(text[begin:end], allowed=allowed):
                start, stop = max(place, edit.start + begin), edit.end + begin
                if start >= core:
                    break
                if stop > place:
                    edit = edit._replace(start=start, end=stop)
                    if stop >= end < len(text):
                        edit = edit._replace(end=_whole(text, edit))
                    edits.append(edit)
            last = edits[-1].end if edits else 0
            is_cut = last >= core
            yield place, max(core, last), edits
            place = max(core, last)
            time.sleep(0)  # whoever waits for the interpreter's lock gets it


def record_hint(*, secrets: bool, personal: bool, email: bool = True) -> Callable[[str], bool]:
    """Tells of a text, or of JSON that spells it, whether it may hold anything to hide.

    Args:
        email: False to leave addresses out.
    """
    groups = [*(SECRETS if secrets else ()), *(("email",) if personal and email else ())]
    groups += NUMBERS if personal else ()
    return hint(*groups, "folded").matches if secrets or personal else hint().matches


def may_hold_in_pieces(text: str, may_hold: Callable[[str], bool]) -> bool:
    """As `may_hold` for a text of any length and any characters, in pieces."""
    if len(text) <= PIECE_CHARS and text.isascii():
        return may_hold(text)
    for start in range(0, max(1, len(text) - OVERLAP_CHARS), PIECE_CHARS - OVERLAP_CHARS):
        piece = text[start : start + PIECE_CHARS]
        if well_formed(piece) is not piece or may_hold(piece):
            return True
        if len(text) > PIECE_CHARS:
            time.sleep(0)
    return False


def _then(text: str, edits: list[Edit], found: list[Edit]) -> tuple[str, list[Edit]]:
    if not found:
        return text, edits
    return apply_edits(text, found), compose(edits, found)


def _well_formed_in_pieces(text: str) -> str:
    if text.isascii():
        return text
    starts = range(0, len(text), PIECE_CHARS)
    pieces = [text[start : start + PIECE_CHARS] for start in starts]
    clean = [well_formed(piece) for piece in pieces]
    same = all(new is old for new, old in zip(clean, pieces, strict=True))
    return text if same else join(clean)


def _whole(text: str, edit: Edit) -> int:
    """Where a match ends in the whole text that its piece cut off."""
    quote = re.search(r"\\{0,7}[\"']\Z", text[max(0, edit.start - 8) : edit.start])
    if edit.kind == "PRIVATE_KEY":
        stop = _END_OF_KEY
    elif edit.kind == "SECRET" and quote:
        stop = re.compile(rf"(?<!\\){re.escape(quote[0])}|\n")
    else:
        stop = _END_OF_TOKEN
    place = max(edit.start, edit.end - 128)  # an end may stand across the border
    while place < len(text):
        found = stop.search(text, place, place + PIECE_CHARS)
        if found and found.end() >= edit.end:
            return found.end() if stop is _END_OF_KEY else max(edit.end, found.start())
        place += PIECE_CHARS - 128
        time.sleep(0)
    return len(text)
