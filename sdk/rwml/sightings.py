"""Tells which transitions were recorded twice: by a client, and by the gateway its calls passed.

The correlation header keeps such calls out of the gateway's recording; where it was not sent, both
are in the store. The client's counts, as it saw the call further out. Nothing is removed here:
readers that must not count a call twice ask. Source: ours.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from pydantic import JsonValue
from pydantic_core import to_json

from rwml.schema import Message, Transition

INNER_SOURCES = frozenset({"litellm"})
"""Sources that see calls on their way from somebody who may have recorded them too."""
_DIGEST_BYTES = 16


class Sightings:
    """What outer recorders saw, as hashes: 16 bytes for each transition, no text."""

    def __init__(self, transitions: Iterable[Transition] = ()) -> None:
        self._seen: set[bytes] = set()
        for transition in transitions:
            self.note(transition)

    def note(self, transition: Transition) -> None:
        """Remembers a transition, unless it is an inner recorder's."""
        if transition.source not in INNER_SOURCES:
            self._seen.add(_digest(transition))

    def has_twin_of(self, transition: Transition) -> bool:
        """Whether it is an inner recorder's, of a call that an outer one recorded too.

        The same action must have had the same answer. Ids of tool calls count, so that two calls
        that say the same are two.
        """
        if not self._seen or transition.source not in INNER_SOURCES:
            return False
        return _digest(transition) in self._seen


def _digest(transition: Transition) -> bytes:
    seen = [_essence(message) for message in (transition.action, *transition.next_state)]
    return hashlib.blake2b(to_json(seen), digest_size=_DIGEST_BYTES).digest()


def _essence(message: Message) -> list[JsonValue]:
    """What every recorder sees of a message in the same way."""
    calls: list[JsonValue] = [
        [call.id, call.name, dict(sorted(call.arguments.items()))] for call in message.tool_calls
    ]
    return [message.role, (message.content or "").strip(), message.tool_call_id, calls]
