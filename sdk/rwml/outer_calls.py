"""Model calls that an outer recorder sees, so that an inner one lets them be.

One call may pass several recorders of a process (ChatLiteLLM fires LangChain's and LiteLLM's
callbacks, with unrelated ids). The outer one says when its calls begin and end; the inner one asks
whether its own call lies within one of them. The outer call always begins first, so the answer
does not depend on which recorder hears of the end first. Texts are kept as hashes only.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from rwml.schema import Message

KEPT_CALLS = 10_000
"""Calls remembered: inner recorders may hear of a call long after its end (ours)."""
_CLOCK_SLACK_S = 0.001
"""Two readings of one clock may be rounded differently (ours)."""
_PART_NAME = re.compile(r"\[\w+\]")


@dataclass
class _Call:
    signature: bytes
    started: float
    ended: float = float("inf")


class OuterCalls:
    """The calls that an outer recorder sees; safe to share between threads.

    Args:
        kept: how many are remembered; the oldest goes first.
    """

    def __init__(self, *, kept: int = KEPT_CALLS) -> None:
        self._kept = kept
        self._lock = threading.Lock()
        self._calls: OrderedDict[str, _Call] = OrderedDict()
        self._by_signature: dict[bytes, list[_Call]] = {}

    def enter(self, name: str, messages: Sequence[Message]) -> None:
        """A call that is recorded begins now.

        Args:
            name: the call's id; entering it again does nothing.
            messages: its request.
        """
        call = _Call(signature=_signature(messages), started=time.time())
        with self._lock:
            if name in self._calls:
                return
            self._calls[name] = call
            self._by_signature.setdefault(call.signature, []).append(call)
            while len(self._calls) > self._kept:
                self._forget(self._calls.popitem(last=False)[1])

    def leave(self, name: str) -> None:
        """The call has ended, well or not; unknown names are left alone."""
        with self._lock:
            if name in self._calls:
                self._calls[name].ended = time.time()

    def covers(self, messages: Sequence[Message], *, started: float) -> bool:
        """Whether a call lies within an outer one, and so is recorded there.

        Args:
            messages: the inner call's request.
            started: when it began, in seconds since the epoch.
        """
        with self._lock:
            return any(
                call.started - _CLOCK_SLACK_S <= started <= call.ended
                for call in self._by_signature.get(_signature(messages), ())
            )

    def _forget(self, call: _Call) -> None:
        same = self._by_signature[call.signature]
        same.remove(call)
        if not same:
            del self._by_signature[call.signature]


def _signature(messages: Sequence[Message]) -> bytes:
    """What a request keeps on its way through an outer library: roles, call ids, the last text.

    Names of parts that are no text are left out: the libraries call them differently.
    """
    shape = [
        ["system" if m.role == "developer" else m.role, m.tool_call_id]
        + [call.id for call in m.tool_calls]
        for m in messages
    ]
    spoken = [m.content or "" for m in messages if m.role != "assistant"]
    last = _PART_NAME.sub("", spoken[-1]).strip() if spoken else ""
    return hashlib.blake2b(json.dumps([shape, last]).encode(), digest_size=16).digest()
