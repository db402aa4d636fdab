"""The messages of a request as `LineReader` knows them: read and hashed once, with their text.

A history that grew shares its messages and digests with the shorter one that it grew from. Nothing
here parses.
"""

from __future__ import annotations

import sys
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from rwml.assemble.completion import Completion
from rwml.assemble.digests import Digests, Hasher
from rwml.schema import Message

_MESSAGE_BYTES = 2_000
"""What a message takes in memory besides its texts, with its digests (ours)."""
_CALL_BYTES = 1_000


Opening = tuple[int, str, str]
"""How long the text of a list's first messages is, and how the last of them begins and ends."""


class ReadMessage(NamedTuple):
    """A message, its digest, and whether it says that it is the result of a tool that failed."""

    message: Message
    digest: bytes
    failed: bool


class Answer:
    """The response of a line: a later request repeats its text.

    Attributes:
        wire: the response's JSON value.
    """

    __slots__ = ("digest", "message", "text", "wire")

    def __init__(self, text: str, wire: object, message: Message) -> None:
        self.text = text
        self.wire = wire
        self.message = message
        self.digest: bytes | None = None

    def read_by(self, hasher: Hasher) -> ReadMessage:
        """The message in a request; hashed once."""
        if self.digest is None:
            self.digest = hasher.message(self.message)
        return ReadMessage(self.message, self.digest, failed=False)

    def size(self) -> int:
        """Bytes in memory, roughly."""
        return 3 * len(self.text) + message_bytes(self.message)


class History:
    """The messages of a request, in the order of the log.

    Attributes:
        messages: parsed.
        digests: one per message.
        failed_calls: ids of tool calls whose results say that they are errors.
        chars: characters of the messages' contents.
    """

    __slots__ = (
        "_failed", "_hasher", "_prefixes", "_thread_id",
        "answer", "chars", "digests", "messages", "size",
    )  # fmt: skip

    def __init__(self, hasher: Hasher) -> None:
        self.messages: tuple[Message, ...] = ()
        self.digests: tuple[bytes, ...] = ()
        self.chars = 0
        self.size = 0
        self.answer: Answer | None = None
        self._hasher = hasher
        self._failed: tuple[tuple[int, str], ...] = ()
        self._thread_id: str | None = None
        self._prefixes: tuple[bytes, ...] = ()

    @property
    def response(self) -> Message | None:
        """What the model answered, where the reader was told to read it and the line has it."""
        return None if self.answer is None else self.answer.message

    @property
    def failed_calls(self) -> frozenset[str]:
        """Ids of tool calls whose results say that they are errors."""
        return frozenset(name for _, name in self._failed)

    def answer_to(self, wire: object) -> Message | None:
        """The answer, if this very value is what it was read from."""
        answer = self.answer
        return answer.message if answer is not None and answer.wire is wire else None

    def is_of(self, completion: Completion, hasher: Hasher) -> bool:
        """Whether it is the request of a completion, with digests by this hasher."""
        return completion.messages is self.messages and hasher is self._hasher

    def extended(self, new: Sequence[ReadMessage]) -> History:
        """This history with more messages, and without its answer."""
        longer = History(self._hasher)
        longer.messages, longer.digests = self.messages, self.digests
        longer._failed, longer.chars, longer.size = self._failed, self.chars, self.size
        longer._thread_id, longer._prefixes = self._thread_id, self._prefixes
        if new:
            longer.messages += tuple(each.message for each in new)
            longer.digests += tuple(each.digest for each in new)
            longer.chars += _chars(each.message for each in new)
            longer.size += sum(message_bytes(each.message) for each in new)
            first = len(self.messages)
            longer._failed += tuple(
                (place, str(each.message.tool_call_id))
                for place, each in enumerate(new, first)
                if each.failed
            )
        return longer

    def cut(self, count: int) -> History:
        """The first messages of this history."""
        shorter = History(self._hasher)
        shorter.messages, shorter.digests = self.messages[:count], self.digests[:count]
        shorter.chars = _chars(shorter.messages)
        shorter.size = sum(map(message_bytes, shorter.messages))
        shorter._failed = tuple(each for each in self._failed if each[0] < count)
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
            response = answer.read_by(hasher).digest
        return hasher.digests(completion, self.digests, self._prefixes, response=response)


class KnownText:
    """A history, and the text that it was read from.

    The text is kept in chunks, each less than half as long as the one before, so that it is
    compared in few calls and grows by few copies. The first line's is one of its own: it tells
    conversations apart that begin alike.

    Attributes:
        opening: by which it is looked up.
        ends: where each line's part of the text ends.
        counts: messages up to there.
        size: bytes in memory, as they were counted last.
    """

    def __init__(self, history: History, text: str, opening: Opening) -> None:
        self.history = history
        self.opening = opening
        self.ends = [len(text)]
        self.counts = [len(history.messages)]
        self.size = 0
        self._chunks = [text]

    def __len__(self) -> int:
        return self.ends[-1]

    def count_size(self) -> int:
        """Counts the bytes in memory, and returns how many more they are than before."""
        before, answer = self.size, self.history.answer
        self.size = len(self) + self.history.size + (0 if answer is None else answer.size())
        return self.size - before

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
            text: a line.
            start: where its list begins.
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

    def cut(self, count: int) -> KnownText:
        """What its first lines say."""
        end = self.ends[count - 1]
        history = self.history.cut(self.counts[count - 1])
        shorter = KnownText(history, self._chunks[0], self.opening)
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


def message_bytes(message: Message) -> int:
    """Bytes that a message takes in memory, roughly."""
    found = _MESSAGE_BYTES + sys.getsizeof(message.content) + sys.getsizeof(message.reasoning)
    for call in message.tool_calls:
        found += _CALL_BYTES + sys.getsizeof(call.raw_arguments)
        found += sum(map(_value_bytes, call.arguments.values()))
    return found


def _value_bytes(value: Any) -> int:
    """Bytes of parsed JSON."""
    size = sys.getsizeof(value)
    if isinstance(value, dict):
        return size + sum(sys.getsizeof(name) + _value_bytes(each) for name, each in value.items())
    if isinstance(value, list):
        return size + sum(map(_value_bytes, value))
    return size


def _chars(messages: Iterable[Message]) -> int:
    return sum(len(message.content or "") for message in messages)
