"""Keyed hashes of messages, histories and the tails by which a cut history is recognised.

Keyed BLAKE2b (RFC 7693, a MAC): without the key a digest says nothing about the text, so digests
may be stored beside redacted texts. Every message of a request is hashed once; prefixes and tails
are chained from those digests, so the work is linear in the tokens of the stream.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from rwml.assemble.completion import Completion
from rwml.errors import UsageError
from rwml.schema import Message

DIGEST_BYTES = 16
"""Size of a digest: no collision is to be expected below 2**60 messages (ours)."""
_length = struct.Struct(">Q").pack
_DIGEST_LENGTH = _length(DIGEST_BYTES)
_PIECE_CHARS = 256 * 1024
_SORTED = json.JSONEncoder(sort_keys=True).encode
_MAX_KEY_BYTES = hashlib.blake2b.MAX_KEY_SIZE


class Digests(NamedTuple):
    """What a completion is recognised by, for n messages in the request.

    Attributes:
        messages: n digests, one per message.
        prefixes: n + 1 digests, of every prefix of the request, the empty one first.
        last: index of the request's last assistant message; None where there is none.
        action: of request and response together; None where the call failed.
        tail: by which a later request with a cut history can name this response.
        wanted_tail: the same of the request's last assistant message.
        head: of the scope and the system prompt.
    """

    messages: tuple[bytes, ...]
    prefixes: tuple[bytes, ...]
    last: int | None
    action: bytes | None
    tail: bytes | None
    wanted_tail: bytes | None
    head: bytes

    @property
    def parent(self) -> bytes | None:
        """The `action` digest of the completion that this request answers, if it is whole."""
        return None if self.last is None else self.prefixes[self.last + 1]

    @property
    def request(self) -> bytes:
        """Digest of the whole request."""
        return self.prefixes[-1]


class Hasher:
    """Hashes messages and completions with one key.

    Args:
        key: secret of 1 to 64 bytes; the same key gives the same digests, in every process.

    Attributes:
        hashed: messages that were hashed so far.

    Raises:
        UsageError: the key has another length.
    """

    def __init__(self, key: bytes) -> None:
        if not 0 < len(key) <= _MAX_KEY_BYTES:
            raise UsageError(f"the key must have 1 to {_MAX_KEY_BYTES} bytes, not {len(key)}")
        self._keyed = hashlib.blake2b(digest_size=DIGEST_BYTES, key=key)
        self.hashed = 0

    def message(self, message: Message) -> bytes:
        """Digest of what a client sends back of a message.

        Left out: names and reasoning, which clients drop; space around the text; None and empty
        text, and the layout of JSON arguments, which are the same.
        """
        self.hashed += 1
        role = "system" if message.role == "developer" else message.role
        parts = [role, (message.content or "").strip(), message.tool_call_id or ""]
        for call in message.tool_calls:
            parts += (call.id, call.name, call.raw_arguments or "", _SORTED(call.arguments))
        for part in message.parts:
            parts.append(f"{part.type}:{part.sha256}")
        if message.content is not None and len(message.content) > _PIECE_CHARS:
            return self._join_in_pieces(parts)
        return self.join(*[part.encode("utf-8", "surrogatepass") for part in parts])

    def join(self, *parts: bytes) -> bytes:
        """Digest of several parts, each with its length, so that borders matter."""
        state = self._keyed.copy()
        update = state.update
        for part in parts:
            update(_length(len(part)))
            update(part)  # not joined: a long one is neither copied nor keeps the GIL
        return state.digest()

    def _join_in_pieces(self, parts: Iterable[str]) -> bytes:
        """As `join`; no call takes long, as others could not run meanwhile."""
        state = self._keyed.copy()
        for part in parts:
            places = range(0, len(part), _PIECE_CHARS)
            pieces = [
                part[at : at + _PIECE_CHARS].encode("utf-8", "surrogatepass") for at in places
            ]
            state.update(_length(sum(map(len, pieces))))
            for piece in pieces:
                state.update(piece)
        return state.digest()

    def scope(self, thread_id: str | None) -> bytes:
        """Digest of the empty history: histories of different threads are never equal."""
        text = "" if thread_id is None else f"thread:{thread_id}"
        return self.join(b"scope", text.encode("utf-8", "surrogatepass"))

    def extend(self, prefix: bytes, digest: bytes) -> bytes:
        """Digest of a history and one more message."""
        state = self._keyed.copy()
        state.update(_DIGEST_LENGTH + prefix + _DIGEST_LENGTH + digest)
        return state.digest()

    def extended(self, prefix: bytes, digests: Iterable[bytes]) -> list[bytes]:
        """Digests of a history with more messages, after each of them."""
        found: list[bytes] = []
        for digest in digests:
            prefix = self.extend(prefix, digest)
            found.append(prefix)
        return found

    def completion(self, completion: Completion) -> Digests:
        """All digests of a completion: n messages and a response take n + 1 message hashes."""
        messages = tuple(self.message(message) for message in completion.messages)
        return self.digests(completion, messages, self.prefixes(completion.thread_id, messages))

    def prefixes(self, thread_id: str | None, messages: Iterable[bytes]) -> tuple[bytes, ...]:
        """Digests of every prefix of a history, the empty one first.

        Args:
            thread_id: the history's scope.
            messages: digests of its messages.
        """
        scope = self.scope(thread_id)
        return (scope, *self.extended(scope, messages))

    def digests(
        self,
        completion: Completion,
        messages: tuple[bytes, ...],
        prefixes: tuple[bytes, ...],
        *,
        response: bytes | None = None,
    ) -> Digests:
        """As `completion`, for a request whose messages were hashed before.

        Args:
            completion: whose digests they are.
            messages: digests of the request's messages.
            prefixes: as the method of that name makes them.
            response: digest of the response, if that is known too.
        """
        request = completion.messages
        last = len(request) - 1
        while last >= 0 and request[last].role != "assistant":
            last -= 1
        head = prefixes[_leading_system(request)]
        action = tail = wanted = None
        if completion.response is not None:
            response = response or self.message(completion.response)
            action = self.extend(prefixes[-1], response)
            tail = self._tail(head, messages[-1:], completion.response, response)
        if last >= 0:
            before = messages[last - 1 : last] if last else ()
            wanted = self._tail(head, before, request[last], messages[last])
        return Digests(
            messages=messages,
            prefixes=prefixes,
            last=last if last >= 0 else None,
            action=action,
            tail=tail,
            wanted_tail=wanted,
            head=head,
        )

    def _tail(self, head: bytes, before: Sequence[bytes], message: Message, digest: bytes) -> bytes:
        """Names an action by scope, system prompt and itself: tool-call ids tell it from others.

        Plain text may be said twice, so there the message before it counts too.
        """
        nearer = b"" if message.tool_calls or not before else before[-1]
        return self.join(b"tail", head, nearer, digest)


def _leading_system(messages: Sequence[Message]) -> int:
    for place, message in enumerate(messages):
        if message.role not in ("system", "developer"):
            return place
    return len(messages)
