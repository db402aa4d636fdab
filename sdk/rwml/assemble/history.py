"""The messages of a request as `LineReader` knows them: read and hashed once, with their text.

A history that grew shares its messages and digests with the shorter one that it grew from. Nothing
here parses.
"""

from __future__ import annotations

import sys
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from rwml.assemble.completion import Completion
from rwml.assemble.digests import Digests, Hasher
from rwml.schema import Message

_MESSAGE_BYTES = 1_400
"""What a message takes in memory besides its texts, with its digests (ours)."""
_CALL_BYTES = 700
_BYTES_PER_CHAR = 8
"""Of JSON, once it is parsed (ours)."""


Opening = tuple[int, str, str]
"""How long the text of a list's first messages is, and how the last of them begins and ends."""


class ReadMessage(NamedTuple):
    """A message that was read.

    Attributes:
        digest: of the message.
        size: bytes that it takes in memory, roughly.
        failed: whether it says that it is the result of a tool that failed.
    """

    message: Message
    digest: bytes
    size: int
    failed: bool = False


class Answer:
    """The response of a line: a later request repeats its text.

    Attributes:
        wire: the response's JSON value.
        message_size: bytes that the message takes in memory, roughly.
    """

    __slots__ = ("message", "message_size", "read", "text", "wire")

    def __init__(self, text: str, wire: object, message: Message) -> None:
        self.text = text
        self.wire = wire
        self.message = message
        self.message_size = message_bytes(message, len(text))
        self.read: ReadMessage | None = None

    def read_by(self, hasher: Hasher) -> ReadMessage:
        """The message in a request; hashed once."""
        if self.read is None:
            digest = hasher.message(self.message)
            self.read = ReadMessage(self.message, digest, self.message_size)
        return self.read

    @property
    def size(self) -> int:
        """Bytes in memory, roughly."""
        return _BYTES_PER_CHAR * len(self.text) + self.message_size


class History:
    """The messages of a request, in the order of the log.

    Attributes:
        messages: parsed.
        digests: one per message.
        failed_calls: ids of tool calls whose results say that they are errors.
        chars: characters of the messages' contents.
        size: bytes that the messages take in memory, roughly.
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
        longer._thread_id, longer._prefixes = self._thread_id, self._prefixes
        failed, chars, size = self._failed, self.chars, self.size
        if new:
            messages, digests, sizes, failures = zip(*new, strict=True)
            longer.messages += messages
            longer.digests += digests
            chars += _chars(messages)
            size += sum(sizes)
            if any(failures):
                failed += tuple(
                    (len(self.messages) + place, str(each.message.tool_call_id))
                    for place, each in enumerate(new)
                    if each.failed
                )
        longer._failed, longer.chars, longer.size = failed, chars, size
        return longer

    def cut(self, count: int, *, chars: int, size: int) -> History:
        """The first messages of this history, of which chars and size are known."""
        shorter = History(self._hasher)
        shorter.messages, shorter.digests = self.messages[:count], self.digests[:count]
        shorter.chars, shorter.size = chars, size
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
            self._prefixes += tuple(hasher.extended(self._prefixes[-1], missing))
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
        size: bytes in memory, as they were counted last.
    """

    def __init__(self, history: History, text: str, opening: Opening) -> None:
        self.history = history
        self.opening = opening
        self.ends = [len(text)]
        self.size = 0
        self._marks = [_mark(history)]
        self._chunks = [text]

    def __len__(self) -> int:
        return self.ends[-1]

    def count_size(self) -> int:
        """Counts the bytes in memory, and returns how many more they are than before."""
        before, answer = self.size, self.history.answer
        self.size = len(self) + self.history.size + (0 if answer is None else answer.size)
        return self.size - before

    def add(self, text: str, history: History) -> None:
        """One more line's part."""
        self.history = history
        self.ends.append(self.ends[-1] + len(text))
        self._marks.append(_mark(history))
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
        messages, chars, size = self._marks[count - 1]
        history = self.history.cut(messages, chars=chars, size=size)
        shorter = KnownText(history, self._chunks[0], self.opening)
        shorter.ends, shorter._marks = self.ends[:count], self._marks[:count]
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


def message_bytes(message: Message, chars: int) -> int:
    """Bytes that a message takes in memory, roughly.

    Args:
        message: that was read.
        chars: length of its JSON text.
    """
    found = _MESSAGE_BYTES + sys.getsizeof(message.content)
    if message.tool_calls or message.reasoning is not None:
        found += _CALL_BYTES * len(message.tool_calls) + _BYTES_PER_CHAR * chars
    return found


def _mark(history: History) -> tuple[int, int, int]:
    return len(history.messages), history.chars, history.size


def _chars(messages: Iterable[Message]) -> int:
    return sum([len(message.content or "") for message in messages])
