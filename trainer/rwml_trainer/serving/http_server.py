"""uvicorn as a gateway needs it: slow sockets are given up, and its end cuts nobody off.

uvicorn waits for the head of a request for ever, and closes its door at the first signal. Here a
head must have come in time, and from the signal on new requests are answered (503, by the guard)
until those in flight have ended.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from rwml_trainer.serving.guard import SEND_TIMEOUT_S
from rwml_trainer.serving.routing import Switchboard

HEAD_TIMEOUT_S = 10.0
"""For the request line and the headers (ours)."""
HEAD_LIMIT = 32 * 2**10
"""Bytes of them (ours): an agent's headers are a few hundred."""
DRAIN_S = 20.0
"""How long requests in flight have when the server ends (ours): with all else, less than 30 s."""
CLOSE_S = 2.0
"""After that, for connections to close."""


class ImpatientProtocol(H11Protocol):
    """HTTP/1.1 that gives up a connection whose next request or reader does not come in time.

    uvicorn's timer of idle connections starts after the first answer, and any byte stops it.
    """

    head_timeout_s = HEAD_TIMEOUT_S
    send_timeout_s = SEND_TIMEOUT_S
    _deadline: asyncio.TimerHandle | None = None
    _taken_by: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """A client came."""
        super().connection_made(transport)
        self._wait_for_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client is gone."""
        self._stop_waiting()
        self._stop_sending()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """The client reads more slowly than it is answered, or not at all."""
        super().pause_writing()
        self._stop_sending()
        self._taken_by = self.loop.call_later(self.send_timeout_s, self.transport.abort)

    def resume_writing(self) -> None:
        """It has read what there was."""
        self._stop_sending()
        super().resume_writing()

    def handle_events(self) -> None:
        """Bytes came, which may complete the head of a request."""
        super().handle_events()
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop_waiting()

    def on_response_complete(self) -> None:
        """An answer ended: the next request may come."""
        self._wait_for_head()
        super().on_response_complete()

    def _stop_sending(self) -> None:
        if self._taken_by is not None:
            self._taken_by.cancel()
            self._taken_by = None

    def _wait_for_head(self) -> None:
        self._stop_waiting()
        self._deadline = self.loop.call_later(self.head_timeout_s, self.transport.abort)

    def _stop_waiting(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


class DrainingServer(uvicorn.Server):
    """A server that lets its requests end before it does; a second signal ends it at once.

    Args:
        app: the guard.
        switchboard: knows what is in flight.
        on_started: called once requests can come.
        head_timeout_s: for the head of a request.
        send_timeout_s: for a client to read what it was answered.
        drain_s: for requests in flight at the end.
    """

    def __init__(
        self,
        app: Any,
        *,
        switchboard: Switchboard,
        on_started: Callable[[], None],
        head_timeout_s: float = HEAD_TIMEOUT_S,
        send_timeout_s: float = SEND_TIMEOUT_S,
        drain_s: float = DRAIN_S,
    ) -> None:
        limits = {"head_timeout_s": head_timeout_s, "send_timeout_s": send_timeout_s}
        protocol = type("Protocol", (ImpatientProtocol,), limits)
        super().__init__(
            uvicorn.Config(
                app,
                http=protocol,
                # Under uvloop interpreters have crashed in contextvars (python/cpython#148891),
                # and this gateway once did.
                loop="asyncio",
                h11_max_incomplete_event_size=HEAD_LIMIT,
                lifespan="on",
                ws="none",
                access_log=False,
                proxy_headers=False,
                server_header=False,
                timeout_graceful_shutdown=int(CLOSE_S),
            )
        )
        self._switchboard = switchboard
        self._on_started = on_started
        self._drain_s = drain_s
        self._until: float | None = None

    async def startup(self, sockets: Any = None) -> None:
        """Starts, and tells so."""
        await super().startup(sockets)
        self._on_started()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A signal came. It is not raised again at the end: what runs at exit has to run."""
        if self._until is None:
            self._switchboard.draining = True
            self._until = time.monotonic() + self._drain_s
        else:
            self.should_exit = True

    async def on_tick(self, counter: int) -> bool:
        """Every 0.1 s: whether to end."""
        if self._until is not None:
            is_over = time.monotonic() > self._until
            self.should_exit = self.should_exit or is_over or self._switchboard.is_idle
        return await super().on_tick(counter)
