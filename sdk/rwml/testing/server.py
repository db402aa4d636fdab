"""An OpenAI-compatible endpoint on loopback, for tests of what asks for answers or embeddings."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from pydantic import JsonValue

from rwml.testing.encoders import BagOfWordsEncoder

Answer = Callable[[Mapping[str, Any]], str]
"""From the body of a chat request to the text of its answer."""


class OpenAIServer:
    """Serves ``/embeddings`` (bag of words) and ``/chat/completions``; use as a context manager.

    Args:
        answer: of chat requests.
        failures: statuses that the first requests get instead of an answer.

    Attributes:
        url: base of the API, such as ``http://127.0.0.1:4711/v1``.
        requests: body of each request, in the order they came.
        headers: of each request.
    """

    def __init__(self, *, answer: Answer = lambda body: "", failures: Sequence[int] = ()) -> None:
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self._answer = answer
        self._failures = list(failures)
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def __enter__(self) -> OpenAIServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def reply(self, path: str, body: dict[str, Any], headers: dict[str, str]) -> tuple[int, bytes]:
        """Status and body of an answer."""
        with self._lock:
            self.requests.append(body)
            self.headers.append(headers)
            if self._failures:
                return self._failures.pop(0), b'{"error": {"message": "not now"}}'
        if path == "/v1/embeddings":
            return 200, json.dumps(_embeddings(body)).encode()
        return 200, json.dumps(_completion(body, self._answer(body))).encode()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                length = int(self.headers.get("Content-Length", 0))
                body = json.loads(self.rfile.read(length))
                status, answer = server.reply(self.path, body, dict(self.headers))
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, format: str, *args: object) -> None:
                pass  # a test's output is its own

        return Handler


def _embeddings(body: Mapping[str, Any]) -> dict[str, JsonValue]:
    vectors = BagOfWordsEncoder().encode(body["input"])
    data: list[JsonValue] = [
        {"object": "embedding", "index": place, "embedding": [3.0 * float(x) for x in vector]}
        for place, vector in enumerate(vectors)
    ]
    return {"object": "list", "model": body["model"], "data": data[::-1]}


def _completion(body: Mapping[str, Any], text: str) -> dict[str, JsonValue]:
    choice: dict[str, JsonValue] = {
        "index": 0,
        "finish_reason": "stop",
        "message": {"role": "assistant", "content": text},
    }
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 0,
        "model": str(body["model"]),
        "choices": [choice],
        "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
    }
