"""The guard in front of the LiteLLM proxy: pure ASGI, so that streams pass through as they come.

LiteLLM has hundreds of routes, some of which answer without a key, and takes orders from headers,
query and body. The guard lets through the routes of `ROUTES` and nothing else, in this order: Host
(DNS rebinding), route, key, body. What reaches LiteLLM is rebuilt from what was checked: the known
path, no query, the headers of `HEADERS`, the body as `request_body.clean` wrote it.
"""

from __future__ import annotations

import asyncio
import hmac
import json
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any

from rwml_trainer.serving.request_body import BadRequestError, clean

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

MODELS = ("GET", "/v1/models")
CHAT = ("POST", "/v1/chat/completions")
LIVELINESS = ("GET", "/health/liveliness")
ROUTES = {  # what a client may ask for -> what LiteLLM is asked for
    MODELS: MODELS,
    ("GET", "/models"): MODELS,
    CHAT: CHAT,
    ("POST", "/chat/completions"): CHAT,
    LIVELINESS: LIVELINESS,
}
OPEN_PATHS = frozenset({LIVELINESS[1]})
PATHS = frozenset(path for _, path in ROUTES)
HEADERS = frozenset({b"accept", b"authorization", b"host", b"user-agent"})
# They would tell clients where the engine is, which asks for no key.
HIDDEN_HEADERS = (b"x-litellm-model-api-base", b"x-litellm-model-name", b"llm_provider-")
BODY_LIMIT = 8 * 2**20
BODY_TIMEOUT_S = 30.0


class RefusalError(Exception):
    """A request that ends here, with an answer in the shape of OpenAI's errors."""

    def __init__(self, status: int, message: str, *, code: str, param: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.param = param


class Guard:
    """An ASGI application that asks another one only what it is allowed to be asked.

    Args:
        app: the LiteLLM proxy.
        key: the bearer key that every route but the liveliness probe needs.
        hosts: accepted Host headers, such as ``127.0.0.1:8000``; port 80 may be left out, as
            clients do.
        body_limit: bytes that a body may have, declared or not.
        body_timeout_s: seconds in which a body must have come.
    """

    def __init__(
        self,
        app: App,
        *,
        key: str,
        hosts: Iterable[str],
        body_limit: int = BODY_LIMIT,
        body_timeout_s: float = BODY_TIMEOUT_S,
    ) -> None:
        self._app = app
        self._key = key.encode()
        named = frozenset(hosts)
        short = {host.removesuffix(":80") for host in named}
        self._hosts = frozenset(host.encode() for host in named | short)
        self._body_limit = body_limit
        self._body_timeout_s = body_timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one connection: start-up and end pass, web sockets are closed, HTTP is checked."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1008})
        else:
            try:
                route, body = await self._check(scope, receive)
            except RefusalError as refusal:
                await _refuse(send, refusal)
            else:
                replayed = _replay(body, receive)
                await self._app(_rebuilt(scope, route, body), replayed, _hiding(send))

    async def _check(self, scope: Scope, receive: Receive) -> tuple[tuple[str, str], bytes]:
        method, path = scope["method"], scope["path"]
        if not self._is_our_host(scope["headers"]):
            raise RefusalError(400, "the Host header is not this server's", code="invalid_host")
        if path not in PATHS:
            raise RefusalError(404, "there is no such route", code="not_found")
        if path not in OPEN_PATHS and not self._has_key(scope["headers"]):
            raise RefusalError(
                401, "no valid key: send 'Authorization: Bearer KEY'", code="invalid_api_key"
            )
        route = ROUTES.get((method, path))
        if route is None:
            raise RefusalError(404, "there is no such route", code="not_found")
        if route != CHAT:
            return route, b""
        try:
            return route, clean(await self._read(scope["headers"], receive))
        except BadRequestError as error:
            raise RefusalError(
                400, str(error), code="invalid_request", param=error.field
            ) from error

    def _is_our_host(self, headers: Headers) -> bool:
        hosts = _values(headers, b"host")
        return len(hosts) == 1 and hosts[0].lower() in self._hosts

    def _has_key(self, headers: Headers) -> bool:
        values = _values(headers, b"authorization")
        scheme, _, key = values[0].partition(b" ") if len(values) == 1 else (b"", b"", b"")
        # compared in any case: how long it takes says nothing about the key
        return hmac.compare_digest(key, self._key) and scheme.lower() == b"bearer"

    async def _read(self, headers: Headers, receive: Receive) -> bytes:
        declared = _values(headers, b"content-length")
        if any(not value.isdigit() or int(value[:20]) > self._body_limit for value in declared):
            raise self._too_large()
        body = bytearray()
        try:
            async with asyncio.timeout(self._body_timeout_s):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise RefusalError(400, "the body is cut off", code="invalid_request")
                    body += message.get("body", b"")
                    if len(body) > self._body_limit:
                        raise self._too_large()
                    if not message.get("more_body", False):
                        return bytes(body)
        except TimeoutError as error:
            raise RefusalError(408, "the body took too long", code="request_timeout") from error

    def _too_large(self) -> RefusalError:
        limit = f"the body is larger than {self._body_limit} bytes"
        return RefusalError(413, limit, code="request_too_large")


def _values(headers: Headers, name: bytes) -> list[bytes]:
    return [value for key, value in headers if key.lower() == name]


def _rebuilt(scope: Scope, route: tuple[str, str], body: bytes) -> Scope:
    """The request as LiteLLM sees it: nothing in it that was not checked."""
    method, path = route
    headers = [(name, value) for name, value in scope["headers"] if name.lower() in HEADERS]
    if method == "POST":
        headers.append((b"content-type", b"application/json"))
        headers.append((b"content-length", str(len(body)).encode()))
    return {
        **scope,
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": headers,
    }


def _replay(body: bytes, receive: Receive) -> Receive:
    """Gives the buffered body once, then whatever comes: a client that leaves is still noticed."""
    pending = [{"type": "http.request", "body": body, "more_body": False}]

    async def replayed() -> Message:
        return pending.pop() if pending else await receive()

    return replayed


def _hiding(send: Send) -> Send:
    async def hidden(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = message.get("headers", [])
            kept = [pair for pair in headers if not pair[0].lower().startswith(HIDDEN_HEADERS)]
            message = {**message, "headers": kept}
        await send(message)

    return hidden


async def _refuse(send: Send, refusal: RefusalError) -> None:
    error = {
        "message": str(refusal),
        "type": "invalid_request_error",
        "param": refusal.param,
        "code": refusal.code,
    }
    body = json.dumps({"error": error}).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
    ]
    if refusal.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
