"""Logs of completions as JSON lines: of a request's history only what is new is parsed and hashed.

Each request repeats the history of the one before. Its text is compared with texts that were read
already, which takes no parsing, and read on where they end; so a log is read in time that is linear
in its length, with a small factor. What comes out is what parsing each line as a whole would give.
"""

from __future__ import annotations

import itertools
import json
import re
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

from rwml.assemble.completion import Completion
from rwml.assemble.digests import Digests, Hasher
from rwml.errors import SchemaError
from rwml.schema import Message

KEPT_HISTORIES = 1_000
"""Conversations whose text is recognised, the least recently read go first (ours)."""
KEPT_CHARS = 64 << 20
"""Characters that they may have together (ours)."""
_KEY_CHARS = 256
_SPACES = frozenset((" ", "\t", "\n", "\r"))
_SPACE = re.compile(r"[ \t\n\r]*")
_DECODER = json.JSONDecoder()


class History:
    """The messages of a request, in the order of the log.

    Attributes:
        messages: parsed.
        digests: one per message.
    """

    def __init__(self, hasher: Hasher) -> None:
        self.messages: tuple[Message, ...] = ()
        self.digests: tuple[bytes, ...] = ()
        self._hasher = hasher
        self._scope: bytes | None = None
        self._prefixes: tuple[bytes, ...] = ()

    def extended(self, messages: list[Message]) -> History:
        """This history with more messages; of those that it has nothing is made again."""
        if not messages:
            return self
        longer = History(self._hasher)
        longer.messages = (*self.messages, *messages)
        longer.digests = (*self.digests, *map(self._hasher.message, messages))
        longer._scope, longer._prefixes = self._scope, self._prefixes
        return longer

    def cut(self, count: int) -> History:
        """The first messages of this history."""
        shorter = History(self._hasher)
        shorter.messages, shorter.digests = self.messages[:count], self.digests[:count]
        shorter._scope, shorter._prefixes = self._scope, self._prefixes[: count + 1]
        return shorter

    def digests_of(self, completion: Completion) -> Digests:
        """The digests of a completion whose request this is."""
        scope = self._hasher.scope(completion.thread_id)
        if scope != self._scope:
            self._scope, self._prefixes = scope, (scope,)
        missing = self.digests[len(self._prefixes) - 1 :]
        if missing:
            found = list(self._prefixes)
            for digest in missing:
                found.append(self._hasher.extend(found[-1], digest))
            self._prefixes = tuple(found)
        return self._hasher.digests(completion, self.digests, self._prefixes)


class _Known:
    """A history, and the pieces of text that it was read from, one per line that added some.

    Attributes:
        places: where each piece begins, counted from the first.
        counts: messages up to the end of each piece.
    """

    def __init__(self, history: History, pieces: list[str], counts: list[int]) -> None:
        self.history = history
        self.pieces = pieces
        self.counts = counts
        self.places = [0, *itertools.accumulate(map(len, pieces))]

    def __len__(self) -> int:
        return self.places[-1]

    def add(self, piece: str, history: History) -> None:
        self.history = history
        self.pieces.append(piece)
        self.counts.append(len(history.messages))
        self.places.append(self.places[-1] + len(piece))

    def matches(self, text: str, start: int) -> int:
        """How many pieces the text begins with."""
        places = self.places if not start else [place + start for place in self.places]
        count = 0
        for same in map(text.startswith, self.pieces, places):
            if not same:
                break
            count += 1
        return count

    def cut(self, count: int) -> _Known:
        """What its first pieces are."""
        messages = self.counts[count - 1]
        return _Known(self.history.cut(messages), self.pieces[:count], self.counts[:count])


class LineReader:
    """Reads JSON lines, each an object with a list of chat messages. Not for several threads.

    Args:
        hasher: hashes the messages.
        key: names the list; at the top of the line, or in an object called ``request``.
        read_message: makes a message of its JSON value.
        kept: how many conversations are recognised.
    """

    def __init__(
        self,
        hasher: Hasher,
        *,
        key: str = "messages",
        read_message: Callable[[Mapping[str, Any]], Message] = Message.from_openai,
        kept: int = KEPT_HISTORIES,
    ) -> None:
        self._hasher = hasher
        self._key = key
        self._read_message = read_message
        self._kept = kept
        self._known: OrderedDict[_Known, None] = OrderedDict()  # hashed by identity
        self._by_start: dict[str, list[_Known]] = {}
        self._chars = 0

    def read(self, line: str) -> tuple[dict[str, Any], History]:
        """Reads a line.

        Returns:
            The object without its messages, and these.

        Raises:
            ValueError: it is no JSON object.
            SchemaError: it has no list of messages, or one of them is no message.
        """
        found: list[History] = []
        try:
            fields, end = self._object(line, _skip(line, 0), found)
        except RecursionError as error:
            raise ValueError("nested too deeply") from error
        if _skip(line, end) != len(line):
            raise ValueError("more text after the JSON object")
        if len(found) != 1:
            raise SchemaError(f"a line needs one list called {self._key!r}, not {len(found)}")
        return fields, found[0]

    def _object(self, text: str, at: int, found: list[History]) -> tuple[dict[str, Any], int]:
        _expect(text, at, "{")
        fields: dict[str, Any] = {}
        at = _skip(text, at + 1)
        if text[at : at + 1] == "}":
            return fields, at + 1
        while True:
            name, at = _value(text, at)
            if not isinstance(name, str):
                raise ValueError(f"a name is expected at character {at}")
            at = _skip(text, at)
            _expect(text, at, ":")
            at = _skip(text, at + 1)
            if name == self._key and text[at : at + 1] == "[":
                history, at = self._messages(text, at)
                found.append(history)
            elif name == "request" and text[at : at + 1] == "{":
                fields[name], at = self._object(text, at, found)
            else:
                fields[name], at = _value(text, at)
            at = _skip(text, at)
            if text[at : at + 1] == "}":
                return fields, at + 1
            _expect(text, at, ",")
            at = _skip(text, at + 1)

    def _messages(self, text: str, start: int) -> tuple[History, int]:
        """The list that begins at `start`, and where it ends."""
        known = self._longest(text, start)
        history = History(self._hasher) if known is None else known.history
        first = last = at = start + (1 if known is None else len(known))
        new: list[Message] = []
        while True:
            at = _skip(text, at)
            if text[at : at + 1] == "]":
                break
            if new or known is not None:
                _expect(text, at, ",")
                at = _skip(text, at + 1)
            value, at = _value(text, at)
            if not isinstance(value, Mapping):
                raise SchemaError("a message must be a JSON object")
            new.append(self._read_message(value))
            last = at
        longer = history.extended(new)
        if known is not None and new:
            known.add(text[first:last], longer)
            self._chars += last - first
        elif known is None and last - start >= _KEY_CHARS:
            self._remember(_Known(longer, [text[start:last]], [len(new)]))
        self._bound()
        return longer, at + 1

    def _longest(self, text: str, start: int) -> _Known | None:
        """The longest known history that the list begins with; a branch of one where it forks."""
        best, most = None, 0
        for known in self._by_start.get(text[start : start + _KEY_CHARS], ()):
            count = known.matches(text, start)
            if count and known.places[count] > most:
                best, most = (known, count), known.places[count]
        if best is None:
            return None
        known, count = best
        if count < len(known.pieces):
            known = known.cut(count)
            self._remember(known)
        self._known.move_to_end(known)
        return known

    def _remember(self, known: _Known) -> None:
        self._known[known] = None
        self._by_start.setdefault(known.pieces[0][:_KEY_CHARS], []).append(known)
        self._chars += len(known)

    def _bound(self) -> None:
        while len(self._known) > self._kept or self._chars > KEPT_CHARS:
            known, _ = self._known.popitem(last=False)
            self._chars -= len(known)
            start = known.pieces[0][:_KEY_CHARS]
            self._by_start[start].remove(known)
            if not self._by_start[start]:
                del self._by_start[start]


def _skip(text: str, at: int) -> int:
    if text[at : at + 1] not in _SPACES:
        return at
    match = _SPACE.match(text, at)
    return at if match is None else match.end()


def _value(text: str, at: int) -> tuple[Any, int]:
    return _DECODER.raw_decode(text, at)


def _expect(text: str, at: int, mark: str) -> None:
    if text[at : at + 1] != mark:
        raise ValueError(f"{mark!r} is expected at character {at}")
