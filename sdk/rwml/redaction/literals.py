r"""Large JSON without what must not be stored, string by string: nothing is parsed as a whole.

To parse and to write ten megabytes of JSON keeps other threads waiting for tens of milliseconds.
Here the text is read from mark to mark, strings that change are written anew, and all between them
is copied as it is. Strings are decoded and encoded in pieces. The same rules as in
`rwml.redaction.records` hold, which a property test compares. Source: RFC 8259; the way is ours.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from rwml.content import join
from rwml.redaction.plans import Part
from rwml.redaction.records import Spot, Walk
from rwml.redaction.texts import PIECE_CHARS

_COPIED_CHARS = 1 << 20
_TOKEN = re.compile(r'[\s,:]*+(?:(?P<mark>["{}\[\]])|(?P<scalar>[^\s,:"{}\[\]]+))')
_BETWEEN = re.compile(r"[\s,:]*+")
_SCALAR = re.compile(r"true|false|null|NaN|-?Infinity|[-+0-9.eE]+")
_NUMBERS = re.compile(r"[-+0-9.eE,\s]++")
_BRACKET = re.compile(r'["{}\[\]]')
_HIGH_SURROGATE = re.compile(r"\\u[dD][89abAB][0-9a-fA-F]{2}\Z")


@dataclass
class _Level:
    """An object or a list that is being read; `place` counts the items of a list."""

    spot: Spot
    is_object: bool
    place: int = 0
    value: Spot | None = None
    taken: set[str] = field(default_factory=set)


class LargeJson:
    """One large JSON text on its way through a walk.

    Args:
        body: the text.
        walk: hides what must not be stored.
    """

    def __init__(self, body: str, walk: Walk) -> None:
        self._body = body
        self._walk = walk
        self._pieces: list[str] = []
        self._copied = 0
        self._levels: list[_Level] = []

    def clean(self, root: Spot) -> str:
        """The text without what must not be stored; the same object where nothing changed.

        Raises:
            ValueError: it is no JSON.
        """
        place = self._value(0, root)
        while self._levels:
            level = self._levels[-1]
            mark, start = self._next(place)
            if mark in ("}", "]"):
                self._levels.pop()
                self._walk.trail.pop()
                place = start + 1
            elif not level.is_object:
                spot = self._walk.item(level.spot, level.place)
                self._walk.trail[-1] = str(level.place)
                level.place += 1
                place = self._numbers(start, spot) if not mark else self._value(start, spot)
            elif level.value is None:
                place = self._key(start, level)
            else:
                spot, level.value = level.value, None
                place = self._value(start, spot)
        while (gap := _BETWEEN.match(self._body, place, place + PIECE_CHARS)) and gap[0]:
            place = gap.end()
        if place < len(self._body):
            raise ValueError("JSON with something behind it")
        if not self._pieces:
            return self._body
        self._write(len(self._body), len(self._body), ())
        return join(self._pieces)

    def _next(self, place: int) -> tuple[str, int]:
        """The next mark, empty for a scalar, and where it is."""
        while True:
            token = _TOKEN.match(self._body, place, place + PIECE_CHARS)
            if token:
                group = token.lastgroup or "mark"
                return token["mark"] or "", token.start(group)
            gap = _BETWEEN.match(self._body, place, place + PIECE_CHARS)
            if gap is None or gap.end() == place:
                raise ValueError("JSON that ends in the middle")
            place = gap.end()

    def _value(self, place: int, spot: Spot) -> int:
        """Reads the value at `place`; returns where it ends, or where its first item is."""
        mark, start = self._next(place)
        is_open = spot.plan.part in (Part.OPEN, Part.OPEN_OBJECT)
        if spot.denied and is_open and mark != '"':
            end = self._end(start, mark)
            is_empty = mark == "{" and self._next(start + 1)[0] == "}"
            if not is_empty and not self._body.startswith("null", start):
                self._write(start, end, [json.dumps(self._walk.denied(None, spot))])
            return end
        if mark == '"':
            end = self._end_of_string(start)
            if spot.plan.part is not Part.STRUCTURE:
                text = self._decode(start, end)
                clean = self._walk.text(text, spot)
                if clean is not text and clean != text:
                    self._write(start, end, _encode(clean))
            return end
        if not mark:
            return self._end(start, mark)
        if spot.plan.part is Part.STRUCTURE:
            return self._end(start, mark)
        self._levels.append(_Level(spot, is_object=mark == "{"))
        self._walk.trail.append("")
        return start + 1

    def _key(self, start: int, level: _Level) -> int:
        end = self._end_of_string(start)
        key = self._decode(start, end)
        below = self._walk.child(level.spot, key)
        self._walk.trail[-1] = ""
        is_field = level.spot.plan.part is Part.FIELDS and key in level.spot.plan.fields
        clean = key if is_field else self._walk.key(key, below, level.taken)
        level.taken.add(clean)
        if clean != key:
            self._write(start, end, _encode(clean))
        self._walk.trail[-1] = clean
        level.value = below
        return end

    def _numbers(self, start: int, spot: Spot) -> int:
        """Reads a scalar in a list; where no path may end here, all the numbers after it too."""
        if spot.denied or any(spot.states):
            return self._value(start, spot)
        numbers = _NUMBERS.match(self._body, start, start + PIECE_CHARS)
        return numbers.end() if numbers else self._end(start, "")

    def _write(self, start: int, end: int, new: Iterable[str]) -> None:
        for place in range(self._copied, start, _COPIED_CHARS):
            self._pieces.append(self._body[place : min(start, place + _COPIED_CHARS)])
        self._pieces += new
        self._copied = end
        self._walk.is_changed = True

    def _end(self, start: int, mark: str) -> int:
        """Where the value at `start` ends."""
        if mark == '"':
            return self._end_of_string(start)
        if not mark:
            scalar = _SCALAR.match(self._body, start, start + PIECE_CHARS)
            if scalar is None:
                raise ValueError("JSON with a word that is none of its own")
            return scalar.end()
        depth, place = 0, start
        while True:
            bracket = _BRACKET.search(self._body, place, place + PIECE_CHARS)
            if bracket is None:
                place += PIECE_CHARS
                if place > len(self._body):
                    raise ValueError("JSON that ends in the middle")
            elif bracket[0] == '"':
                place = self._end_of_string(bracket.start())
            else:
                depth += 1 if bracket[0] in "{[" else -1
                place = bracket.end()
                if not depth:
                    return place

    def _end_of_string(self, start: int) -> int:
        if self._body[start : start + 1] != '"':
            raise ValueError("JSON without a string where one must be")
        place = start + 1
        while True:
            place = self._body.find('"', place)
            if place < 0:
                raise ValueError("JSON that ends in the middle")
            before = place
            while self._body[before - 1] == "\\":
                before -= 1
            place += 1
            if (place - 1 - before) % 2 == 0:
                return place

    def _decode(self, start: int, end: int) -> str:
        if end - start <= PIECE_CHARS:
            return json.loads(self._body[start:end], strict=False)
        return join(self._decoded(start + 1, end - 1))

    def _decoded(self, place: int, end: int) -> Iterator[str]:
        while place < end:
            cut = self._cut(place, min(end, place + PIECE_CHARS), end)
            yield json.loads(f'"{self._body[place:cut]}"', strict=False)
            place = cut
            time.sleep(0)  # whoever waits for the interpreter's lock gets it

    def _cut(self, place: int, cut: int, end: int) -> int:
        """A place at or before `cut` that is not inside of an escape, nor between two that pair."""
        if cut == end:
            return cut
        escape = self._body.rfind("\\", cut - 5, cut)
        if escape >= 0:
            before = escape
            while before > place and self._body[before - 1] == "\\":
                before -= 1
            is_escape = (escape - before) % 2 == 0
            length = 6 if self._body[escape + 1] == "u" else 2
            if is_escape and escape + length > cut:
                cut = escape
        pair = _HIGH_SURROGATE.search(self._body[max(place, cut - 6) : cut])
        return cut - 6 if pair and cut - 6 > place else cut


def _encode(text: str) -> Iterator[str]:
    """The text as JSON, in pieces; ASCII, as the body around it may be ten megabytes of it."""
    yield '"'
    for start in range(0, len(text), PIECE_CHARS):
        yield json.dumps(text[start : start + PIECE_CHARS])[1:-1]
        if len(text) > PIECE_CHARS:
            time.sleep(0)
    yield '"'
