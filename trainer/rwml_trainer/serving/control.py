"""How the server tells its gateway what to serve: JSON over a pair of sockets that only they have.

An admin route would be one more door on a port that clients reach; this has no port, no path and
needs no key: the pair is inherited when the gateway starts, and ends with either process. Orders
are numbered and one is given at a time, so that a late reply is never taken for another order's.
"""

from __future__ import annotations

import json
import multiprocessing
import threading
import time
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, JsonValue

from rwml.errors import ServingError
from rwml_trainer.serving.process import POLL_S, ServerProcess
from rwml_trainer.serving.routing import Table
from rwml_trainer.serving.traffic import Report

ANSWER_S = 30.0
"""For an answer of a gateway that is up (ours)."""


class GatewaySilentError(ServingError):
    """A gateway that runs, and does not answer: what it was told may count later, or never."""


class Order(BaseModel):
    """What the server says.

    Attributes:
        number: of this order; the reply repeats it.
        table: what to serve from now on; None to leave it.
        version: whose requests in flight to count.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["serve", "count", "report"]
    number: int = 0
    table: Table | None = None
    version: str = ""


def open_pair() -> tuple[Connection, Connection]:
    """Both ends; the second is the gateway's, by its file descriptor."""
    return multiprocessing.Pipe()


class Control:
    """The server's end.

    Args:
        connection: to the gateway.
        process: the gateway's.
    """

    def __init__(self, connection: Connection, process: ServerProcess) -> None:
        self._connection = connection
        self._process = process
        self._given = 0
        self._answered = 0

    def serve(self, table: Table, *, deadline: float | None = None) -> None:
        """Replaces the gateway's table; returns when it counts.

        Args:
            table: all of it.
            deadline: value of `time.monotonic`; None for `ANSWER_S` from now.

        Raises:
            GatewaySilentError: the gateway does not answer in time.
            ServingError: the gateway died.
        """
        self._ask(Order(kind="serve", table=table), deadline)

    def count(self, version: str) -> int:
        """Requests in flight to a version; raises what `serve` does."""
        return int(self._ask(Order(kind="count", version=version), None)["count"])

    def report(self) -> Report:
        """What the traffic came to; raises what `serve` does."""
        return Report.model_validate(self._ask(Order(kind="report"), None)["report"])

    def close(self) -> None:
        """Closes our end."""
        self._connection.close()

    def _ask(self, order: Order, deadline: float | None) -> dict[str, Any]:
        deadline = time.monotonic() + ANSWER_S if deadline is None else deadline
        try:
            self._take_replies(deadline)  # to orders that were given up, before there is one more
            self._given += 1
            numbered = order.model_copy(update={"number": self._given})
            self._connection.send_bytes(numbered.model_dump_json().encode())
            return self._take_replies(deadline)
        except (EOFError, BrokenPipeError, ConnectionResetError) as error:
            self._process.wait(POLL_S)
            self._process.check()
            raise ServingError(f"the gateway hung up: {error}") from error

    def _take_replies(self, deadline: float) -> dict[str, Any]:
        """Takes replies until none is owed, and returns the last."""
        reply: dict[str, Any] = {}
        while self._answered < self._given:
            while not self._connection.poll(POLL_S):
                self._process.check()
                if time.monotonic() > deadline:
                    raise GatewaySilentError(
                        f"the gateway does not answer: {self._process.last_lines()} "
                        f"(all of it in {self._process.log})"
                    )
            reply = json.loads(self._connection.recv_bytes())
            self._answered = reply["number"]
        return reply


def listen(descriptor: int, carry_out: Callable[[Order], Mapping[str, JsonValue]]) -> None:
    """The gateway's end: carries out orders in a thread of its own, until the server is gone."""

    def work() -> None:
        with Connection(descriptor) as connection:
            while True:
                try:
                    order = Order.model_validate_json(connection.recv_bytes())
                except EOFError:
                    return
                reply = {"number": order.number, **carry_out(order)}
                connection.send_bytes(json.dumps(reply).encode())

    threading.Thread(target=work, name="rwml-control", daemon=True).start()
