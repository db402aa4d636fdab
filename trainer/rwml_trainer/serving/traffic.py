"""What the gateway saw of the traffic of each version: requests, errors, latency, trials.

An error is an answer of 400 and above from the version's side, a stream that breaks off, or an
answer that does not begin in time; what a key is refused for (401, 403, 429) and clients that soon
leave (499) are not. An answer of 400 counts, because a version may refuse what another takes, such
as a long context.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict

from rwml.statistics import quantile
from rwml_trainer.serving.conversations import Place
from rwml_trainer.serving.trials import Trial

Message = MutableMapping[str, Any]
Send = Callable[[Message], Awaitable[None]]

LATENCIES = 1_000
"""Of each version, the last ones, which its quantiles are of (ours)."""
LEFT = 499
"""LiteLLM's status of a request whose client is gone."""
NOT_OF_A_VERSION = frozenset({401, 403, 429, LEFT})
HANGS_S = 300.0
"""An answer that has not begun by then is an error (ours): LiteLLM waits for 600 s."""
LEFT_AFTER_S = 30.0
"""A client that leaves after it has waited so long does so because of the version (ours)."""
BROKEN_STREAM = b'data: {"error"'
"""How LiteLLM ends a stream whose engine failed, after it has answered 200."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class VersionTraffic(_Frozen):
    """Of a version, by whatever name it was asked for, since the gateway's start.

    Attributes:
        requests: that were answered.
        errors: of them.
        p50_s: median latency of the last answers that were no errors, to the end of a stream.
        p99_s: their 99th percentile.
    """

    requests: int
    errors: int
    p50_s: float | None = None
    p99_s: float | None = None


class Report(_Frozen):
    """All of it.

    Attributes:
        versions: by their names.
        trials: that are under way, by alias.
    """

    versions: dict[str, VersionTraffic] = {}
    trials: dict[str, Trial] = {}


class Kept(_Frozen):
    """The report as the server keeps it for `rwml serve list`."""

    at: datetime
    report: Report


@dataclass
class _Counts:
    requests: int = 0
    errors: int = 0
    latencies: deque[float] = field(default_factory=lambda: deque(maxlen=LATENCIES))

    def shown(self) -> VersionTraffic:
        ordered = sorted(self.latencies)
        p50, p99 = (quantile(ordered, share) if ordered else None for share in (0.5, 0.99))
        return VersionTraffic(requests=self.requests, errors=self.errors, p50_s=p50, p99_s=p99)


class Seen:
    """Sends an answer on, and sees what it is.

    Args:
        send: to the client.
    """

    def __init__(self, send: Send) -> None:
        self._send = send
        self._began = time.monotonic()
        self._waited_s = 0.0
        self._status: int | None = None
        self._is_broken = False
        self._has_left = False

    @property
    def has_begun(self) -> bool:
        """Whether anything of an answer was there."""
        return self._status is not None

    @property
    def is_answered(self) -> bool:
        """Whether there was an answer that is about the version."""
        if self._status == LEFT:
            return self._waited_s >= LEFT_AFTER_S
        return self._status is not None and self._status not in NOT_OF_A_VERSION

    @property
    def is_error(self) -> bool:
        """Whether it is an error."""
        return self._is_broken or (self.is_answered and (self._status or 0) >= 400)

    async def __call__(self, message: Message) -> None:
        """Sends a part of it."""
        if message["type"] == "http.response.start":
            self._status = message["status"]
            self._waited_s = time.monotonic() - self._began
        elif message.get("body", b"").startswith(BROKEN_STREAM):
            self._is_broken = True
        try:
            await self._send(message)
        except BaseException:
            self._has_left = True
            raise

    def fail(self) -> None:
        """Notes that the application behind failed without an answer, or in the middle of it."""
        if not self._has_left:
            self._status, self._is_broken = self._status or 500, True


class Traffic:
    """Counts as requests end."""

    def __init__(self) -> None:
        self._versions: defaultdict[str, _Counts] = defaultdict(_Counts)

    @contextmanager
    def watched(self, place: Place | None, seen: Seen) -> Iterator[None]:
        """Counts what a request came to when the block ends; nothing where it asked no version."""
        if place is None:
            yield
            return
        began, is_late = time.monotonic(), False

        def look() -> None:
            nonlocal is_late
            is_late = not seen.has_begun
            if is_late:
                self.count(place, seconds=None)

        late = asyncio.get_running_loop().call_later(HANGS_S, look)
        try:
            yield
        except Exception:
            seen.fail()
            raise
        finally:
            late.cancel()
            if seen.is_answered and not is_late:
                self.count(place, seconds=None if seen.is_error else time.monotonic() - began)

    def count(self, place: Place, *, seconds: float | None) -> None:
        """Counts an answer; an error has no latency."""
        counts = self._versions[place.version]
        counts.requests += 1
        if seconds is None:
            counts.errors += 1
            place.fail()
        else:
            counts.latencies.append(seconds)

    def shown(self) -> dict[str, VersionTraffic]:
        """What there is so far, by version."""
        return {version: counts.shown() for version, counts in self._versions.items()}
