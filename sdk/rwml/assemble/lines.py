"""Logs of completions as JSON lines: of a request's history only what is new is parsed and hashed.

Each request repeats the history of the one before. Its text is compared with texts that were read
already, which takes no parsing, and read on where they end; so a log is read in time that is linear
in its length, with a small factor. What comes out is what parsing each line as a whole would give.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_right
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
_PLAIN_NAME = re.compile(r'"([^"\\\x00-\x1f]*)"[ \t\n\r]*:[ \t\n\r]*')
_AFTER_NAME, _AFTER_FIELD, _AFTER_ITEM = (
    re.compile(rf"[ \t\n\r]*([{marks}])[ \t\n\r]*") for marks in (":", ",}", r",\]")
)
_DECODER = json.JSONDecoder()


class _Answer:
    """The response of a line: a later request repeats its text."""

    __slots__ = ("digest", "message", "text")

    def __init__(self, text: str, message: Message) -> None:
        self.text = text
        self.message = message
        self.digest: bytes | None = None

    def digest_by(self, hasher: Hasher) -> bytes:
        """The message's digest, made once."""
        if self.digest is None:
            self.digest = hasher.message(self.message)
        return self.digest


class History:
    """The messages of a request, in the order of the log.

    Attributes:
        messages: parsed.
        digests: one per message.
    """

    __slots__ = ("_hasher", "_prefixes", "_thread_id", "answer", "digests", "messages")

    def __init__(self, hasher: Hasher) -> None:
        self.messages: tuple[Message, ...] = ()
        self.digests: tuple[bytes, ...] = ()
        self.answer: _Answer | None = None
        self._hasher = hasher
        self._thread_id: str | None = None
        self._prefixes: tuple[bytes, ...] = ()

    @property
    def response(self) -> Message | None:
        """What the model answered, where the reader was told to read it and the line has it."""
        return None if self.answer is None else self.answer.message

    def extended(self, messages: list[Message], digests: list[bytes]) -> History:
        """This history with more messages, and without its answer."""
        longer = History(self._hasher)
        longer.messages = (*self.messages, *messages) if messages else self.messages
        longer.digests = (*self.digests, *digests) if messages else self.digests
        longer._thread_id, longer._prefixes = self._thread_id, self._prefixes
        return longer

    def cut(self, count: int) -> History:
        """The first messages of this history."""
        shorter = History(self._hasher)
        shorter.messages, shorter.digests = self.messages[:count], self.digests[:count]
        shorter._thread_id, shorter._prefixes = self._thread_id, self._prefixes[: count + 1]
        return shorter

    def digests_of(self, completion: Completion) -> Digests:
        """The digests of a completion whose request this is."""
        hasher, answer = self._hasher, self.answer
        if not self._prefixes or self._thread_id != completion.thread_id:
            self._thread_id = completion.thread_id
            self._prefixes = (hasher.scope(completion.thread_id),)
        missing = self.digests[len(self._prefixes) - 1 :]
        if missing:
            self._prefixes = (*self._prefixes, *hasher.extended(self._prefixes[-1], missing))
        response = None
        if answer is not None and answer.message is completion.response:
            response = answer.digest_by(hasher)
        return hasher.digests(completion, self.digests, self._prefixes, response=response)


class _Known:
    """A history, and the text that it was read from.

    The text is kept in chunks, each less than half as long as the one before, so that it is
    compared in few calls and grows by few copies. The first line's is one of its own: it tells
    conversations apart that begin alike.

    Attributes:
        ends: where each line's part of the text ends.
        counts: messages up to there.
    """

    def __init__(self, history: History, text: str) -> None:
        self.history = history
        self.ends = [len(text)]
        self.counts = [len(history.messages)]
        self._chunks = [text]

    def __len__(self) -> int:
        return self.ends[-1]

    @property
    def start(self) -> str:
        """What is looked up."""
        return self._chunks[0][:_KEY_CHARS]

    def add(self, text: str, history: History) -> None:
        """One more line's part."""
        self.history = history
        self.ends.append(self.ends[-1] + len(text))
        self.counts.append(len(history.messages))
        chunks = self._chunks
        while len(chunks) > 1 and len(chunks[-1]) <= 2 * len(text):
            text = chunks.pop() + text
        chunks.append(text)

    def matches(self, text: str, start: int, most: int) -> int:
        """How many lines' parts the text at `start` begins with.

        Args:
            most: characters that another history matches: 0 is returned where it cannot be more.
        """
        done = 0
        for chunk in self._chunks:
            if text.startswith(chunk, start + done):
                done += len(chunk)
            elif done + len(chunk) <= most:
                return 0
            else:
                return self._matches_within(chunk, done, text, start)
        return len(self.ends)

    def cut(self, count: int) -> _Known:
        """What its first lines say."""
        end = self.ends[count - 1]
        shorter = _Known(self.history.cut(self.counts[count - 1]), self._chunks[0])
        shorter.ends, shorter.counts = self.ends[:count], self.counts[:count]
        left = end - len(self._chunks[0])
        for chunk in self._chunks[1:]:
            if left <= 0:
                break
            shorter._chunks.append(chunk[:left])
            left -= len(chunk)
        return shorter

    def _matches_within(self, chunk: str, before: int, text: str, start: int) -> int:
        """As `matches`, where a chunk that begins at `before` differs somewhere."""
        count = bisect_right(self.ends, before)
        place = before
        while text.startswith(chunk[place - before : self.ends[count] - before], start + place):
            place = self.ends[count]
            count += 1
        return count


class LineReader:
    """Reads JSON lines, each an object with a list of chat messages. Not for several threads.

    Args:
        hasher: hashes the messages.
        key: names the list; at the top of the line, or in an object called ``request``.
        response: names the model's answer, if it is to be read as well; in the same object as the
            list, or at the top of the line.
        read_message: makes a message of its JSON value.
        kept: how many conversations are recognised.
    """

    def __init__(
        self,
        hasher: Hasher,
        *,
        key: str = "messages",
        response: str | None = None,
        read_message: Callable[[Mapping[str, Any]], Message] = Message.from_openai,
        kept: int = KEPT_HISTORIES,
    ) -> None:
        self._hasher = hasher
        self._key = key
        self._response = response
        self._read_message = read_message
        self._kept = kept
        self._known: OrderedDict[_Known, None] = OrderedDict()  # hashed by identity
        self._by_start: dict[str, list[_Known]] = {}
        self._chars = 0

    def read(self, line: str) -> tuple[dict[str, Any], History]:
        """Reads a line.

        Returns:
            The object without its messages, and these. The answer, where it is read, is in both.

        Raises:
            ValueError: it is no JSON object.
            SchemaError: it has no list of messages, or one of them, or the answer, is no message.
        """
        found: list[History] = []
        answers: list[_Answer | None] = []
        try:
            fields, end = self._object(line, _skip(line, 0), found, answers)
        except RecursionError as error:
            raise ValueError("nested too deeply") from error
        if _skip(line, end) != len(line):
            raise ValueError("more text after the JSON object")
        if len(found) != 1:
            raise SchemaError(f"a line needs one list called {self._key!r}, not {len(found)}")
        if answers:  # of one that is named twice the last counts, as in JSON
            found[0].answer = answers[-1]
        return fields, found[0]

    def _object(
        self, text: str, at: int, found: list[History], answers: list[_Answer | None]
    ) -> tuple[dict[str, Any], int]:
        if text[at : at + 1] != "{":
            raise ValueError(f"'{{' is expected at character {at}")
        fields: dict[str, Any] = {}
        at = _skip(text, at + 1)
        if text[at : at + 1] == "}":
            return fields, at + 1
        mark = ","
        while mark == ",":
            name, at = _name(text, at)
            if name == self._key and text[at : at + 1] == "[":
                history, at = self._messages(text, at)
                found.append(history)
            elif name == "request" and text[at : at + 1] == "{":
                fields[name], at = self._object(text, at, found, answers)
            elif name == self._response:
                start = at
                fields[name], at = _value(text, at)
                answers.append(self._answer(fields[name], text[start:at]))
            else:
                fields[name], at = _value(text, at)
            mark, at = _mark(text, at, _AFTER_FIELD)
        return fields, at

    def _answer(self, value: object, text: str) -> _Answer | None:
        if value is None:
            return None
        if not isinstance(value, Mapping):
            raise SchemaError(f"{self._response!r} must be a message")
        return _Answer(text, self._read_message(value))

    def _messages(self, text: str, start: int) -> tuple[History, int]:
        """The list that begins at `start`, and where it ends."""
        known = self._longest(text, start)
        history = History(self._hasher) if known is None else known.history
        first = last = at = start + (1 if known is None else len(known))
        new: list[Message] = []
        digests: list[bytes] = []
        answer = history.answer
        if known is not None:
            mark, at = _mark(text, at, _AFTER_ITEM)
        else:
            at = _skip(text, at)
            mark = text[at : at + 1]
            at += mark == "]"
        while mark != "]":
            if answer is not None and text.startswith(answer.text, at):
                message, digest = answer.message, answer.digest_by(self._hasher)
                last = at + len(answer.text)
            else:
                value, last = _value(text, at)
                if not isinstance(value, Mapping):
                    raise SchemaError("a message must be a JSON object")
                message = self._read_message(value)
                digest = self._hasher.message(message)
            new.append(message)
            digests.append(digest)
            answer = None
            mark, at = _mark(text, last, _AFTER_ITEM)
        longer = history.extended(new, digests)
        if known is None:
            if last - start >= _KEY_CHARS:
                self._remember(_Known(longer, text[start:last]))
        elif new:
            known.add(text[first:last], longer)
            self._chars += last - first
        else:
            known.history = longer
        self._bound()
        return longer, at

    def _longest(self, text: str, start: int) -> _Known | None:
        """The longest known history that the list begins with; a branch of one where it forks."""
        best, most = None, 0
        for known in self._by_start.get(text[start : start + _KEY_CHARS], ()):
            count = known.matches(text, start, most)
            if count and known.ends[count - 1] > most:
                best, most = (known, count), known.ends[count - 1]
        if best is None:
            return None
        known, count = best
        if count < len(known.ends):
            known = known.cut(count)
            self._remember(known)
        self._known.move_to_end(known)
        return known

    def _remember(self, known: _Known) -> None:
        self._known[known] = None
        self._by_start.setdefault(known.start, []).append(known)
        self._chars += len(known)

    def _bound(self) -> None:
        while len(self._known) > self._kept or self._chars > KEPT_CHARS:
            known, _ = self._known.popitem(last=False)
            self._chars -= len(known)
            alike = self._by_start[known.start]
            alike.remove(known)
            if not alike:
                del self._by_start[known.start]


def _skip(text: str, at: int) -> int:
    if text[at : at + 1] not in _SPACES:
        return at
    match = _SPACE.match(text, at)
    return at if match is None else match.end()


def _value(text: str, at: int) -> tuple[Any, int]:
    return _DECODER.raw_decode(text, at)


def _name(text: str, at: int) -> tuple[str, int]:
    """The name of a field, and where its value begins."""
    plain = _PLAIN_NAME.match(text, at)
    if plain is not None:
        return plain[1], plain.end()
    name, at = _value(text, at)
    if not isinstance(name, str):
        raise ValueError(f"a name is expected at character {at}")
    _, at = _mark(text, at, _AFTER_NAME)
    return name, at


def _mark(text: str, at: int, marks: re.Pattern[str]) -> tuple[str, int]:
    """What stands after a value, and where the next one begins."""
    match = marks.match(text, at)
    if match is None:
        raise ValueError(f"a mark is expected at character {at}")
    return match[1], match.end()
