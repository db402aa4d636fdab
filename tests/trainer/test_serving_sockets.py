"""Slow and idle sockets, and the end of a server: the real HTTP server, a small application."""

from __future__ import annotations

import asyncio
import contextlib
import json
import resource
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from typing import Any

import pytest

pytest.importorskip("uvicorn")
pytest.importorskip("httpx")

import httpx
from tests.trainer.served_stub import until

from rwml_trainer.serving.guard import Guard
from rwml_trainer.serving.http_server import DrainingServer
from rwml_trainer.serving.keys import Key
from rwml_trainer.serving.process import bind
from rwml_trainer.serving.routing import Switchboard, Table, Target

SOCKETS = 500
BEARER = {"Authorization": "Bearer k"}
BODY = {"model": "world@1", "messages": [{"role": "user", "content": "hi"}]}
ENGINE = Target(url="http://127.0.0.1:1/v1", model="m", engine="transformers")


class AnyKey:
    def find(self, secret: bytes) -> Key | None:
        known = Key(name="ci", sha256="0", created_at=datetime.now(UTC))
        return known if secret == b"k" else None


class Running:
    """A server in a thread of its own, whose answers wait to be told."""

    def __init__(self, **limits: float) -> None:
        self.told = threading.Event()
        self.told.set()
        self.board = Switchboard(Table(versions={"world@1": ENGINE}))
        self.ended = threading.Event()
        self._ready = threading.Event()
        self._bound = bind("127.0.0.1", 0)
        self.port = self._bound.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        body_timeout_s = limits.pop("body_timeout_s", 30.0)
        guard = Guard(
            self._answer,
            keys=AnyKey(),
            switchboard=self.board,
            hosts=[f"127.0.0.1:{self.port}"],
            body_timeout_s=body_timeout_s,
        )
        self.server = DrainingServer(
            guard, switchboard=self.board, on_started=self._ready.set, **limits
        )
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Running:
        self._thread.start()
        assert self._ready.wait(20)
        return self

    def __exit__(self, *_: object) -> None:
        self.told.set()
        self.server.should_exit = True
        self._thread.join(20)

    def _run(self) -> None:
        self.server.run(sockets=[self._bound])
        self.ended.set()

    async def _answer(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            for kind in ("startup", "shutdown"):
                await receive()
                await send({"type": f"lifespan.{kind}.complete"})
            return
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"first ", "more_body": True})
        while not self.told.is_set():
            await asyncio.sleep(0.01)
        await send({"type": "http.response.body", "body": b"last"})

    def ask(self) -> httpx.Response:
        url = f"{self.url}/v1/chat/completions"
        return httpx.post(url, headers=BEARER, json=BODY, trust_env=False, timeout=60)


@pytest.fixture
def many_files() -> Iterator[None]:
    """Both ends of the sockets are ours."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = SOCKETS * 2 + 500
    if hard != resource.RLIM_INFINITY and hard < wanted:
        pytest.skip(f"needs {wanted} open files, and {hard} are allowed")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@contextmanager
def connected(server: Running, first: bytes) -> Iterator[list[socket.socket]]:
    with ExitStack() as stack:
        opened = []
        for _ in range(SOCKETS):
            made = socket.create_connection(("127.0.0.1", server.port), timeout=20)
            stack.enter_context(made)
            if first:
                made.sendall(first)
            opened.append(made)
        yield opened


def is_closed(connection: socket.socket) -> bool:
    """Whether the server ended it; whatever it said before is read."""
    try:
        while connection.recv(4096):
            pass
    except TimeoutError:
        return False
    except ConnectionError:
        pass
    return True


HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n"


@pytest.mark.usefixtures("many_files")
@pytest.mark.parametrize(
    "first",
    [b"", b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nX-Slow: "],
    ids=["silent", "half a head"],
)
def test_sockets_that_ask_nothing_are_given_up_and_others_are_served(first: bytes) -> None:
    with Running(head_timeout_s=1.0) as server, connected(server, first) as slow:
        with ThreadPoolExecutor(8) as pool:
            answers = [pool.submit(server.ask) for _ in range(40)]
            assert {answer.result().text for answer in answers} == {"first last"}
        assert all(map(is_closed, slow))


def test_a_dripping_head_does_not_buy_time() -> None:
    with Running(head_timeout_s=0.5) as server:
        connection = socket.create_connection(("127.0.0.1", server.port), timeout=0.05)
        sent = 0

        def is_given_up() -> bool:
            nonlocal sent
            try:
                connection.sendall(b"G"[:1] if sent == 0 else b"E")
                sent += 1
                return connection.recv(1) == b""
            except TimeoutError:
                return False
            except ConnectionError:
                return True

        until(is_given_up)
        connection.close()


def test_a_client_that_reads_nothing_is_given_up() -> None:
    with Running(send_timeout_s=0.5) as server, socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(1)
        connection.connect(("127.0.0.1", server.port))
        ask = f"GET /v1/models HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\n\r\n".encode()
        with contextlib.suppress(TimeoutError, ConnectionError):
            for _ in range(200):  # each is refused, and nobody reads the refusals
                connection.sendall(ask * 200)
        until(lambda: not server.server.server_state.connections)


def test_a_connection_that_was_used_is_given_up_too() -> None:
    with Running(head_timeout_s=0.5) as server:
        connection = socket.create_connection(("127.0.0.1", server.port), timeout=20)
        head = f"GET /health/liveliness HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\n\r\n"
        connection.sendall(head.encode())
        assert connection.recv(4096).startswith(b"HTTP/1.1 200")
        connection.sendall(b"GET /")
        assert is_closed(connection)
        connection.close()


@pytest.mark.usefixtures("many_files")
def test_bodies_that_do_not_come_are_given_up_and_others_are_served() -> None:
    with Running(body_timeout_s=1.0) as server:
        head = HEAD % server.port + b"Authorization: Bearer k\r\nContent-Length: 9\r\n\r\n{"
        with connected(server, head) as slow:
            with ThreadPoolExecutor(8) as pool:
                answers = [pool.submit(server.ask) for _ in range(40)]
                assert {answer.result().text for answer in answers} == {"first last"}
            assert all(c.recv(4096).startswith(b"HTTP/1.1 408") for c in slow)


def test_without_a_key_a_body_is_not_waited_for() -> None:
    with Running() as server, socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.settimeout(20)
        connection.sendall(HEAD % server.port + b"Content-Length: 1000000\r\n\r\n")
        assert connection.recv(4096).startswith(b"HTTP/1.1 401")


def test_an_answer_that_takes_long_is_not_given_up() -> None:
    with Running(head_timeout_s=0.2) as server, ThreadPoolExecutor(1) as pool:
        server.told.clear()
        slow = pool.submit(server.ask)
        until(lambda: server.board.in_flight("world@1"))
        with socket.create_connection(("127.0.0.1", server.port), timeout=20) as idle:
            assert is_closed(idle)  # longer than a head may take
        server.told.set()
        assert slow.result().text == "first last"


@pytest.mark.parametrize("drain_s", [60.0, 0.0])
def test_the_end_waits_for_what_is_in_flight_and_lets_nobody_in(drain_s: float) -> None:
    with Running(drain_s=drain_s) as server, ThreadPoolExecutor(1) as pool:
        server.told.clear()
        slow = pool.submit(_outcome, server.ask)
        until(lambda: server.board.in_flight("world@1"))
        server.server.handle_exit(15, None)
        if drain_s:
            refused = server.ask()
            assert refused.status_code == 503
            assert json.loads(refused.text)["error"]["code"] == "shutting_down"
            assert not server.ended.is_set()
            server.told.set()
            assert slow.result() == "first last"
        else:
            assert slow.result() == "cut off"
        assert server.ended.wait(20)


def _outcome(ask: Callable[[], httpx.Response]) -> str:
    try:
        return ask().text
    except httpx.HTTPError:
        return "cut off"


def test_a_second_signal_does_not_wait() -> None:
    with Running(drain_s=60.0) as server, ThreadPoolExecutor(1) as pool:
        server.told.clear()
        slow = pool.submit(_outcome, server.ask)
        until(lambda: server.board.in_flight("world@1"))
        server.server.handle_exit(15, None)
        server.server.handle_exit(15, None)
        assert slow.result() == "cut off"
        assert server.ended.wait(20)
