"""Model calls that an outer recorder sees, so that an inner one only adds what it knows better.

One call may pass several recorders of a process (ChatLiteLLM fires LangChain's and LiteLLM's
callbacks, with unrelated ids). The outer one says when its calls begin and end; the inner one asks
whether its own call lies within one of them, and if so hands over what the outer one may lack. The
outer call always begins first, so the answer does not depend on which recorder hears of the end
first. Requests are kept as hashes only, and no answer's text is kept.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import re
import threading
import time
import weakref
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from rwml.schema import Message, Step, Usage

KEPT_CALLS = 10_000
"""Calls remembered: inner recorders may hear of a call long after its end (ours)."""
KEPT_ENRICHMENTS = 1_000
"""Enrichments that wait for the outer recorder; they may hold token ids (ours)."""
_CLOCK_SLACK_S = 0.001
"""Two readings of one clock may be rounded differently (ours)."""
_LOOKED_AT = 4096
"""Characters at each end of the last text that tell it from others (ours)."""
_PART_NAME = re.compile(r"\[\w+\]")


@dataclass(frozen=True, kw_only=True)
class Enrichment:
    """What an inner recorder knows of a call; None where it does not.

    Attributes:
        model: the model that answered, as the provider named it.
        usage: token counts.
        latency_s: seconds from the inner request to the whole response.
        token_ids: completion token ids as the engine returned them.
        logprobs: log-probabilities of those tokens.
    """

    model: str | None = None
    usage: Usage | None = None
    latency_s: float | None = None
    token_ids: tuple[int, ...] | None = None
    logprobs: tuple[float, ...] | None = None

    def fill(self, step: Step) -> Step:
        """The step with what it lacks, and nothing replaced; itself where it lacks nothing."""
        lacking = {
            name: value
            for name, value in vars(self).items()
            if value is not None and getattr(step, name) is None
        }
        return step.model_copy(update=lacking) if lacking else step


Listener = Callable[[str, Enrichment], None]


@dataclass
class _Call:
    name: str
    signature: bytes
    started: float
    ended: float = float("inf")
    enriched: bool = False
    confusable: bool = False


class OuterCalls:
    """The calls that an outer recorder sees; safe to share between threads.

    The outer recorder: `enter`, then `leave`, write the step, and `take` what is known already;
    what becomes known later comes to the listener given to `on_enrich`, in whatever thread. In that
    order nothing is missed, though it may come twice. The inner recorder: `covers`, then `enrich`.

    Args:
        kept: how many calls are remembered; the oldest goes first.
    """

    def __init__(self, *, kept: int = KEPT_CALLS) -> None:
        self._kept = kept
        self._lock = threading.Lock()
        self._calls: OrderedDict[str, _Call] = OrderedDict()
        self._by_signature: dict[bytes, list[_Call]] = {}
        self._enrichments: OrderedDict[str, Enrichment] = OrderedDict()
        self._listeners: list[Callable[[], Listener | None]] = []

    def enter(self, name: str, messages: Sequence[Message]) -> None:
        """A call that is recorded begins now.

        Args:
            name: the call's id, not empty; entering it again does nothing.
            messages: its request.
        """
        call = _Call(name=name, signature=_signature(messages), started=time.time())
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

    def covers(self, messages: Sequence[Message], *, started: float) -> str | None:
        """The outer call that an inner one lies within, and so is recorded as.

        Args:
            messages: the inner call's request.
            started: when it began, in seconds since the epoch.

        Returns:
            The outer call's name; None where there is none. Of several equal calls at the same
            time one is named, and no enrichment is told of it that could be another's.
        """
        with self._lock:
            around = [
                call
                for call in self._by_signature.get(_signature(messages), ())
                if call.started - _CLOCK_SLACK_S <= started <= call.ended
            ]
            likely = [call for call in around if not call.enriched] or around
            if len(likely) > 1:
                for call in likely:
                    call.confusable = True
            return likely[0].name if likely else None

    def enrich(
        self,
        name: str,
        *,
        model: str | None = None,
        usage: Usage | None = None,
        latency_s: float | None = None,
        token_ids: tuple[int, ...] | None = None,
        logprobs: tuple[float, ...] | None = None,
    ) -> bool:
        """An inner recorder says what it knows of a call; what was said first stays.

        Args:
            name: as `covers` returned it.
            model: see `Enrichment`, as for the others.

        Returns:
            False where the call is not remembered any more.
        """
        with self._lock:
            call = self._calls.get(name)
            if call is None:
                return False
            call.enriched = True
            told = Enrichment(model=model)
            if not call.confusable:  # else the numbers may belong to an equal call's answer
                told = Enrichment(
                    model=model,
                    usage=usage,
                    latency_s=latency_s,
                    token_ids=token_ids,
                    logprobs=logprobs,
                )
            known = self._enrichments.pop(name, told)
            enrichment = self._enrichments[name] = _merge(known, told)
            while len(self._enrichments) > KEPT_ENRICHMENTS:
                self._enrichments.popitem(last=False)
            listeners = [reference() for reference in self._listeners]
        for listener in listeners:  # outside the lock: it may ask for more
            if listener is not None:
                listener(name, enrichment)
        return True

    def take(self, name: str) -> Enrichment | None:
        """What is known of a call, once; None where nothing is."""
        with self._lock:
            return self._enrichments.pop(name, None)

    def on_enrich(self, listener: Listener) -> Callable[[], None]:
        """Calls `listener` with each enrichment as it becomes known, in the thread that knows it.

        A method is held as long as its object lives elsewhere. Adding a listener again does
        nothing, so it can be done before every call; in a fork's child it has to be done again.

        Returns:
            A function that takes the listener out again.
        """
        with self._lock:
            self._listeners = [held for held in self._listeners if held() is not None]
            if not any(held() == listener for held in self._listeners):
                self._listeners.append(_hold(listener))

        def undo() -> None:
            with self._lock:
                self._listeners = [held for held in self._listeners if held() != listener]

        return undo

    def _forget(self, call: _Call) -> None:
        self._enrichments.pop(call.name, None)
        same = self._by_signature[call.signature]
        same.remove(call)
        if not same:
            del self._by_signature[call.signature]


def _merge(first: Enrichment, second: Enrichment) -> Enrichment:
    more = {key: value for key, value in vars(second).items() if vars(first)[key] is None}
    return replace(first, **more)


def _hold(listener: Listener) -> Callable[[], Listener | None]:
    if inspect.ismethod(listener):
        return weakref.WeakMethod(listener)
    return lambda: listener


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
    last = spoken[-1] if spoken else ""
    if len(last) > 2 * _LOOKED_AT:  # a long text would stop all threads
        last = last[:_LOOKED_AT] + last[-_LOOKED_AT:]
    last = _PART_NAME.sub("", last).strip()
    return hashlib.blake2b(json.dumps([shape, last]).encode(), digest_size=16).digest()
