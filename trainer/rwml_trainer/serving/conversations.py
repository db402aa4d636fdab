"""Which version a conversation has, so that it keeps it while a candidate is tried.

A conversation is what the client calls one (``x-litellm-session-id``), or else what begins with the
same message of the user: the system prompt often tells the time, and what follows grows. Of either
only a hash with the key's is kept. One that was known before a trial began stays on the current
version; a new one is drawn by a hash, so that it is drawn alike if it was forgotten meanwhile.
"""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import JsonValue

from rwml_trainer.serving.trials import Arm, Candidate, Trial

REMEMBERED = 100_000
"""Conversations at most (ours); the one that was silent longest is forgotten."""


@dataclass
class Tally:
    """Conversations that were drawn for one side of a trial, and those of them that failed."""

    begun: int = 0
    failed: int = 0


@dataclass(eq=False, slots=True)
class Place:
    """The version of a conversation, for as long as it keeps it.

    Attributes:
        version: ``NAME@STEP``.
        tally: of the side of a trial that it was drawn for; None where it was not drawn.
        has_failed: whether an answer to it has.
    """

    version: str
    tally: Tally | None = None
    has_failed: bool = False

    def fail(self) -> None:
        """Notes that an answer failed: in a trial, the first of a conversation counts."""
        if self.tally is not None and not self.has_failed:
            self.tally.failed += 1
        self.has_failed = True


def conversation_of(request: Mapping[str, JsonValue], *, session: bytes, key: str) -> bytes:
    """What tells a conversation from others.

    Args:
        request: a checked chat completion request.
        session: what its client calls it; empty where it says nothing.
        key: whose it is, so that clients cannot reach into each other's.
    """
    told = b"session" if session else b"opening"
    digest = hashlib.blake2b(key.encode() + b"\0" + told + b"\0", digest_size=16)
    digest.update(session or _opening(request))
    return digest.digest()


class Conversations:
    """The places of conversations, and the tallies of the trials that they were drawn in.

    Args:
        limit: how many are remembered.
    """

    def __init__(self, limit: int = REMEMBERED) -> None:
        self._limit = limit
        self._places: OrderedDict[tuple[str, bytes], Place] = OrderedDict()
        self._tallies: dict[str, tuple[Tally, Tally]] = {}  # by trial: current, candidate

    def place(
        self, name: str, conversation: bytes, *, current: str, candidate: Candidate | None
    ) -> Place:
        """Where a request goes that asks for a name.

        Args:
            name: without a step.
            conversation: see `conversation_of`.
            current: version that the name means.
            candidate: that is tried, if one is.
        """
        known = self._places.get((name, conversation))
        if known is None:
            place = self._draw(conversation, current, candidate)
        elif known.version == current or (candidate and known.version == candidate.version):
            place = known
        else:  # the name has moved on, or its trial has ended
            place = Place(current)
        self._places[name, conversation] = place
        self._places.move_to_end((name, conversation))
        if len(self._places) > self._limit:
            self._places.popitem(last=False)
        return place

    def trial(self, candidate: Candidate) -> Trial:
        """What has become of the conversations of a trial so far."""
        current, tried = (
            Arm(conversations=tally.begun, failed=tally.failed)
            for tally in self._tallies.get(candidate.trial, (Tally(), Tally()))
        )
        return Trial(id=candidate.trial, share=candidate.share, current=current, candidate=tried)

    def _draw(self, conversation: bytes, current: str, candidate: Candidate | None) -> Place:
        if candidate is None:
            return Place(current)
        drawn = hashlib.blake2b(conversation, key=candidate.trial.encode(), digest_size=8).digest()
        is_tried = int.from_bytes(drawn) / 2**64 < candidate.share
        tally = self._tallies.setdefault(candidate.trial, (Tally(), Tally()))[is_tried]
        tally.begun += 1
        return Place(candidate.version if is_tried else current, tally)


def _opening(request: Mapping[str, JsonValue]) -> bytes:
    messages = request.get("messages")
    for message in messages if isinstance(messages, list) else []:
        if isinstance(message, dict) and message.get("role") not in ("system", "developer"):
            return json.dumps(message.get("content")).encode()
    return b""
