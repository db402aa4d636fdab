"""An OpenAI-compatible server on loopback that answers as it is told, also wrongly."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

HANG = object()
"""A reply that does not come before the endpoint is closed."""
Reply = str | bytes | int | tuple[int, bytes] | dict[str, Any] | object
"""Text of an answer, a whole body as it is, a status, both, an assistant message, or `HANG`."""


class Endpoint(ThreadingHTTPServer):
    """Answers the requests in the order of its replies, the last one for ever.

    Attributes:
        replies: what it answers; or a function of the request that gives it.
        replies_of: what it answers to the requests for a model, where that has its own.
        requests: bodies of the requests so far.
        keys: the authorization of each.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.replies: Sequence[Reply] | Callable[[dict[str, Any]], Reply] = []
        self.replies_of: dict[str, Sequence[Reply]] = {}
        self.requests: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.closing = threading.Event()
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"

    def reply(self, request: dict[str, Any], key: str | None) -> Reply:
        with self._lock:
            self.requests.append(request)
            self.keys.append(key)
            if callable(self.replies):
                return self.replies(request)
            model = request["model"]
            replies = self.replies_of.get(model, self.replies)
            number = sum(each["model"] == model for each in self.requests)
            return replies[min(number, len(replies)) - 1]


@contextmanager
def running_endpoint() -> Iterator[Endpoint]:
    server = Endpoint()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.closing.set()
        server.shutdown()
        server.server_close()
        thread.join(5)


class _Handler(BaseHTTPRequestHandler):
    server: Endpoint  # type: ignore[assignment]  # the only server that makes it

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        reply = self.server.reply(body, self.headers.get("Authorization"))
        if reply is HANG:
            self.server.closing.wait()
            return
        status, data = 200, reply
        if isinstance(reply, int):
            status, data = reply, b'{"error": {"message": "told to fail"}}'
        elif isinstance(reply, tuple):
            status, data = reply
        elif not isinstance(reply, bytes):
            data = _completion(reply)
        assert isinstance(data, bytes)
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        """Silent."""


def _completion(reply: Reply) -> bytes:
    message = reply if isinstance(reply, dict) else {"content": reply}
    answer = {
        "id": "1",
        "object": "chat.completion",
        "created": 1,
        "model": "tiny",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", **message},
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18},
    }
    return json.dumps(answer).encode()
