"""Logs of completions as JSON lines: of a request's history only what is new is parsed and hashed.

Each request repeats the history of the one before. Its text is compared with texts that were read
already, which takes no parsing, and read on where they end; so a log is read in time that is linear
in its length, with a small factor. What comes out is what parsing each line as a whole would give.

Lines are compared as bytes, each a character of Latin-1, so that a rare letter slows nothing down;
JSON's own marks are the same there. Only what is parsed is decoded.
"""

from __future__ import annotations

import json
import re
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from rwml.assemble.digests import Hasher
from rwml.assemble.history import Answer, History, KnownText, Opening, ReadMessage, message_bytes
from rwml.errors import SchemaError
from rwml.schema import Message

KEPT_HISTORIES = 1_000
"""Conversations whose text is recognised, the least recently read go first (ours)."""
KEPT_BYTES = 128 << 20
"""Memory that they may take together with their messages, roughly (ours)."""
_SHORTEST = 256
"""Characters of a history that is worth recognising (ours)."""
_OPENING_MESSAGES = 4
"""A conversation is looked up by its messages up to the user's first, but by no more (ours)."""
_OPENING_CHARS = 256
_ALIKE = 64
"""Histories with one opening of which the longest that fits is looked for (ours)."""
_KEPT_REPEATED = 16
"""Values of a field that mostly repeats which are recognised (ours)."""
_REPEATED_CHARS = 256 << 10
"""A longer one is not (ours)."""
_SPACES = frozenset((" ", "\t", "\n", "\r"))
_SPACE = re.compile(r"[ \t\n\r]*")
_PLAIN_NAME = re.compile(r'"([^"\\\x00-\x1f]*)"[ \t\n\r]*:[ \t\n\r]*')
_AFTER_NAME, _AFTER_FIELD, _AFTER_ITEM = (
    re.compile(rf"[ \t\n\r]*([{marks}])[ \t\n\r]*") for marks in (":", ",}", r",\]")
)
_DECODER = json.JSONDecoder()
Wire = Mapping[str, Any]


@dataclass
class _Found:
    """What a line holds: histories, the texts that these are kept with, and answers."""

    histories: list[History] = field(default_factory=list)
    known: list[KnownText] = field(default_factory=list)
    answers: list[Answer | None] = field(default_factory=list)


class LineReader:
    """Reads JSON lines, each an object with a list of chat messages. Not for several threads.

    Args:
        hasher: hashes the messages.
        key: names the list; at the top of the line, or in an object called ``request``.
        response: names the model's answer, if it is to be read as well; in the same object as the
            list, or at the top of the line.
        read_message: makes a message of its JSON value.
        read_answer: the same of an answer, None where it is of another shape; None to read it as
            every message.
        is_failed: whether a message's JSON value says that it is the result of a tool that failed.
        repeated: fields beside the list that mostly repeat, each with what reads its list or
            object; None where there is nothing to read.
        kept: how many conversations are recognised.
        kept_bytes: memory that they may take together with their messages, roughly.
    """

    def __init__(
        self,
        hasher: Hasher,
        *,
        key: str = "messages",
        response: str | None = None,
        read_message: Callable[[Wire], Message] = Message.from_openai,
        read_answer: Callable[[Wire], Message | None] | None = None,
        is_failed: Callable[[Wire], bool] = lambda wire: False,
        repeated: Mapping[str, Callable[[Any], object]] | None = None,
        kept: int = KEPT_HISTORIES,
        kept_bytes: int = KEPT_BYTES,
    ) -> None:
        self._hasher = hasher
        self._key = key
        self._response = response
        self._read_message = read_message
        self._read_answer = read_answer or read_message
        self._is_failed = is_failed
        self._repeated = {name: _Repeated(read) for name, read in (repeated or {}).items()}
        self._kept = kept
        self._kept_bytes = kept_bytes
        self._known: OrderedDict[KnownText, None] = OrderedDict()  # hashed by identity
        self._by_opening: dict[Opening, dict[KnownText, None]] = {}
        self._openers = _Repeated(lambda wire: None if _is_from_user(wire) else wire)
        self._bytes = 0

    def read(self, line: str | bytes) -> tuple[dict[str, Any], History]:
        """Reads a line.

        Returns:
            The object without its messages, and these. The answer, where it is read, is in both.

        Raises:
            ValueError: it is no JSON object.
            SchemaError: it has no list of messages, or one of them, or the answer, is no message.
        """
        fields = self.read_in_place(line)
        found: list[History] = []
        inner: Any = fields
        while isinstance(inner, dict):
            if isinstance(inner.get(self._key), History):
                found.append(inner.pop(self._key))
            inner = inner.get("request")
        if len(found) != 1:
            raise SchemaError(f"a line needs one list called {self._key!r}, not {len(found)}")
        return fields, found[0]

    def read_in_place(self, line: str | bytes) -> dict[str, Any]:
        """Reads a line, with a `History` in the place of each list of messages, if it has any.

        Raises:
            ValueError: it is no JSON object.
            SchemaError: one of its messages, or the answer, is no message.
        """
        text = _as_latin1(line)
        found = _Found()
        try:
            fields, end = self._object(text, _skip(text, 0), found)
            if _skip(text, end) != len(text):
                raise ValueError("more text after the JSON object")
            if found.answers:  # of one that is named twice the last counts, as in JSON
                for history in found.histories:
                    history.answer = found.answers[-1]
        except RecursionError as error:
            raise ValueError("nested too deeply") from error
        finally:
            self._bound(found.known)
        return fields

    def _object(self, text: str, at: int, found: _Found) -> tuple[dict[str, Any], int]:
        if text[at : at + 1] != "{":
            raise ValueError(f"'{{' is expected at byte {at}")
        fields: dict[str, Any] = {}
        at = _skip(text, at + 1)
        if text[at : at + 1] == "}":
            return fields, at + 1
        mark = ","
        while mark == ",":
            name, at = _name(text, at)
            first = text[at : at + 1]
            if name == self._key and first == "[":
                fields[name], at = self._messages(text, at, found)
            elif name == "request" and first == "{":
                fields[name], at = self._object(text, at, found)
            elif name == self._response:
                start = at
                fields[name], at = _value(text, at)
                found.answers.append(self._answer(fields[name], text[start:at]))
            elif name in self._repeated and first in ("[", "{"):
                fields[name], at = self._repeated[name].read(text, at)
            else:
                fields[name], at = _value(text, at)
            mark, at = _mark(text, at, _AFTER_FIELD)
        return fields, at

    def _answer(self, value: object, text: str) -> Answer | None:
        if value is None:
            return None
        if not isinstance(value, Mapping):
            raise SchemaError(f"{self._response!r} must be a message")
        message = self._read_answer(value)
        return None if message is None else Answer(text, value, message)

    def _messages(self, text: str, start: int, found: _Found) -> tuple[History, int]:
        """The list that begins at `start`, and where it ends."""
        opening = self._opening(text, start)
        known = None if opening is None else self._longest(text, start, opening, found)
        history = History(self._hasher) if known is None else known.history
        first = last = at = start + (1 if known is None else len(known))
        new: list[ReadMessage] = []
        answer = history.answer
        if known is not None:
            mark, at = _mark(text, at, _AFTER_ITEM)
        else:
            at = _skip(text, at)
            mark = text[at : at + 1]
            at += mark == "]"
        while mark != "]":
            if answer is not None and text.startswith(answer.text, at):
                new.append(answer.read_by(self._hasher))
                last = at + len(answer.text)
            else:
                value, last = _value(text, at)
                new.append(self._message(value, last - at))
            answer = None
            mark, at = _mark(text, last, _AFTER_ITEM)
        longer = history.extended(new)
        if known is None:
            if opening is not None and last - start >= _SHORTEST:
                self._remember(KnownText(longer, text[start:last], opening), found)
        elif new:
            known.add(text[first:last], longer)
        else:
            known.history = longer
        found.histories.append(longer)
        return longer, at

    def _message(self, value: object, chars: int) -> ReadMessage:
        if not isinstance(value, Mapping):
            raise SchemaError("a message must be a JSON object")
        message = self._read_message(value)
        digest, size = self._hasher.message(message), message_bytes(message, chars)
        return ReadMessage(message, digest, size, self._is_failed(value))

    def _opening(self, text: str, start: int) -> Opening | None:
        """What a history that begins at `start` is looked up by; None where it has no messages."""
        at = last = _skip(text, start + 1)
        end = None
        for _ in range(_OPENING_MESSAGES):
            if text[at : at + 1] != "{":
                break
            last = at
            value, end = self._openers.read(text, at)
            mark, at = _mark(text, end, _AFTER_ITEM)
            if mark == "]" or _is_from_user(value):
                break
        if end is None:
            return None
        begins = text[last : min(end, last + _OPENING_CHARS)]
        return end - start, begins, text[max(last, end - _OPENING_CHARS) : end]

    def _longest(self, text: str, start: int, opening: Opening, found: _Found) -> KnownText | None:
        """The longest known history that the list begins with; a branch of one where it forks."""
        best, most = None, 0
        alike = self._by_opening.get(opening, {})
        for known in islice(reversed(alike), _ALIKE):
            count = known.matches(text, start, most)
            if count and known.ends[count - 1] > most:
                best, most = (known, count), known.ends[count - 1]
        if best is None:
            return None
        known, count = best
        if count < len(known.ends):
            known = known.cut(count)
            self._remember(known, found)
        self._known.move_to_end(known)
        alike[known] = alike.pop(known)
        found.known.append(known)
        return known

    def _remember(self, known: KnownText, found: _Found) -> None:
        self._known[known] = None
        self._by_opening.setdefault(known.opening, {})[known] = None
        found.known.append(known)

    def _bound(self, changed: list[KnownText]) -> None:
        """Forgets what was not read for long, where there is too much."""
        for known in changed:
            self._bytes += known.count_size()
        while len(self._known) > self._kept or self._bytes > self._kept_bytes:
            known, _ = self._known.popitem(last=False)
            self._bytes -= known.size
            alike = self._by_opening[known.opening]
            del alike[known]
            if not alike:
                del self._by_opening[known.opening]


class _Repeated:
    """A field whose text is mostly one of a few, each read once: the tools of a request.

    Args:
        read: makes of the JSON value what stands in its place; None to leave the value.
    """

    def __init__(self, read: Callable[[Any], object]) -> None:
        self._read = read
        self._known: list[tuple[str, object]] = []

    def read(self, text: str, at: int) -> tuple[Any, int]:
        """The list or object that begins at `at`, and where it ends."""
        for place, (known, value) in enumerate(self._known):
            if text.startswith(known, at):  # it ends with its bracket, so the value does too
                self._known.insert(0, self._known.pop(place))
                return value, at + len(known)
        value, end = _value(text, at)
        read = self._read(value)
        if read is None:
            return value, end
        if end - at <= _REPEATED_CHARS:
            self._known.insert(0, (text[at:end], read))
            del self._known[_KEPT_REPEATED:]
        return read, end


def _is_from_user(wire: Any) -> bool:
    return isinstance(wire, Mapping) and wire.get("role") == "user"


def _as_latin1(line: str | bytes) -> str:
    """Each byte of the line as a character."""
    if isinstance(line, str):
        if line.isascii():
            return line
        line = line.encode("utf-8", "surrogatepass")
    return line.decode("latin-1")


def _skip(text: str, at: int) -> int:
    if text[at : at + 1] not in _SPACES:
        return at
    match = _SPACE.match(text, at)
    return at if match is None else match.end()


def _value(text: str, at: int) -> tuple[Any, int]:
    """The value that begins at `at`, and where it ends."""
    value, end = _DECODER.raw_decode(text, at)
    if not text.isascii():
        wire = text[at:end]
        if not wire.isascii():
            value = _DECODER.decode(_decoded(wire))
    return value, end


def _decoded(latin1: str) -> str:
    return latin1.encode("latin-1").decode("utf-8", "surrogatepass")


def _name(text: str, at: int) -> tuple[str, int]:
    """The name of a field, and where its value begins."""
    plain = _PLAIN_NAME.match(text, at)
    if plain is not None:
        return plain[1] if plain[1].isascii() else _decoded(plain[1]), plain.end()
    name, at = _value(text, at)
    if not isinstance(name, str):
        raise ValueError(f"a name is expected at byte {at}")
    _, at = _mark(text, at, _AFTER_NAME)
    return name, at


def _mark(text: str, at: int, marks: re.Pattern[str]) -> tuple[str, int]:
    """What stands after a value, and where the next one begins."""
    match = marks.match(text, at)
    if match is None:
        raise ValueError(f"a mark is expected at byte {at}")
    return match[1], match.end()
