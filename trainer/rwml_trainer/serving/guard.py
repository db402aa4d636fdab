"""The guard in front of the LiteLLM proxy: pure ASGI, so that streams pass through as they come.

LiteLLM has hundreds of routes, some of which answer without a key, and takes orders from headers,
query and body. The guard lets through the routes of `ROUTES` and nothing else, in this order: Host
(DNS rebinding), route, key, body, model. What reaches LiteLLM is rebuilt from what was checked: the
known path, no query, the headers of `HEADERS`, the body as `request_body.write` wrote it, with the
version that its model's name means at this moment. What LiteLLM answers when the engine fails never
reaches a client: it names the engine's address.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from dataclasses import dataclass
from typing import Any, Protocol

from pydantic import JsonValue

from rwml_trainer.serving.capabilities import fit
from rwml_trainer.serving.conversations import Place, conversation_of
from rwml_trainer.serving.keys import Key
from rwml_trainer.serving.request_body import BadRequestError, parse, write
from rwml_trainer.serving.routing import Switchboard
from rwml_trainer.serving.traffic import LEFT, Seen

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
SESSION = b"x-litellm-session-id"
# The last two say which conversation a call belongs to, and who records it: see docs/litellm.md.
HEADERS = frozenset({b"accept", b"authorization", b"host", b"user-agent", SESSION, b"x-rwml-call"})
# They would tell clients where the engine is, which asks for no key.
HIDDEN_HEADERS = (b"x-litellm-model-api-base", b"x-litellm-model-name", b"llm_provider-")
ADMISSION = "rwml.admission"
"""Where `auth` finds, in the ASGI scope, who was let in."""
BODY_LIMIT = 8 * 2**20
BODY_TIMEOUT_S = 30.0
SEND_TIMEOUT_S = 60.0
"""How long a client may leave a piece of its answer unread (ours)."""
RETRY_AFTER_S = 1
UNREACHABLE = b"Connection error"
"""How the OpenAI client, and so LiteLLM, says that nobody listens at the engine's address."""
REFUSALS = frozenset({401, 403, 429, LEFT})
"""By which LiteLLM refuses a client's key or says that it left, or an engine LiteLLM."""
BY_THE_ENGINE = b"OpenAIException"
"""What stands in LiteLLM's answer where the engine gave its status."""


class RefusalError(Exception):
    """A request that ends here, with an answer in the shape of OpenAI's errors."""

    def __init__(self, status: int, message: str, *, code: str, param: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.param = param


class Keys(Protocol):
    """What knows the keys."""

    def find(self, secret: bytes) -> Key | None:
        """The key that this is; None where it opens nothing."""
        ...


@dataclass(frozen=True)
class Admission:
    """A request that was let in.

    Attributes:
        route: what LiteLLM is asked for.
        key: whose it is; None on open routes.
        models: names that the key may ask for.
        place: the version, for this conversation; None where no model is asked.
        body: what LiteLLM gets.
    """

    route: tuple[str, str]
    key: Key | None = None
    models: tuple[str, ...] = ()
    place: Place | None = None
    body: bytes = b""

    @property
    def version(self) -> str:
        """The model; empty where none is asked."""
        return "" if self.place is None else self.place.version


class Guard:
    """An ASGI application that asks another one only what it is allowed to be asked.

    Args:
        app: the LiteLLM proxy.
        keys: bearer keys, of which every route but the liveliness probe needs one.
        switchboard: the models.
        hosts: accepted Host headers, such as ``127.0.0.1:8000``; port 80 may be left out, as
            clients do.
        body_limit: bytes that a body may have, declared or not.
        body_timeout_s: seconds in which a body must have come.
        send_timeout_s: seconds in which a client must take a piece of its answer.
    """

    def __init__(
        self,
        app: App,
        *,
        keys: Keys,
        switchboard: Switchboard,
        hosts: Iterable[str],
        body_limit: int = BODY_LIMIT,
        body_timeout_s: float = BODY_TIMEOUT_S,
        send_timeout_s: float = SEND_TIMEOUT_S,
    ) -> None:
        self._app = app
        self._keys = keys
        self._switchboard = switchboard
        named = {host.lower() for host in hosts}
        short = {host.removesuffix(":80") for host in named}
        self._hosts = frozenset(host.encode() for host in named | short)
        self._body_limit = body_limit
        self._body_timeout_s = body_timeout_s
        self._send_timeout_s = send_timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one connection: start-up and end pass, web sockets are closed, HTTP is checked."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1008})
        else:
            try:
                admission = await self._check(scope, receive)
            except RefusalError as refusal:
                await _refuse(send, refusal)
            else:
                await self._pass_on(admission, scope, receive, send)

    async def _pass_on(
        self, admission: Admission, scope: Scope, receive: Receive, send: Send
    ) -> None:
        async def patient(message: Message) -> None:
            async with asyncio.timeout(self._send_timeout_s):
                await send(message)

        seen = Seen(patient)
        answer, watched = _Answer(seen), self._switchboard.traffic.watched(admission.place, seen)
        with self._switchboard.counted(admission.version), watched:
            replayed = _replay(admission.body, receive)
            await self._app(_rebuilt(scope, admission), replayed, answer)

    async def _check(self, scope: Scope, receive: Receive) -> Admission:
        method, path = scope["method"], scope["path"]
        if not self._is_our_host(scope["headers"]):
            raise RefusalError(400, "the Host header is not this server's", code="invalid_host")
        if path not in PATHS:
            raise RefusalError(404, "there is no such route", code="not_found")
        key = self._key(scope["headers"])
        if path not in OPEN_PATHS and key is None:
            raise RefusalError(
                401, "no valid key: send 'Authorization: Bearer KEY'", code="invalid_api_key"
            )
        route = ROUTES.get((method, path))
        if route is None:
            raise RefusalError(404, "there is no such route", code="not_found")
        if self._switchboard.draining:
            raise RefusalError(503, "the server is shutting down", code="shutting_down")
        if key is None or route == LIVELINESS:
            return Admission(route)
        if route != CHAT:
            return Admission(route, key, tuple(self._switchboard.table.names(key)))
        body = await self._read(scope["headers"], receive)
        try:
            return self._admit(body, key, b",".join(_values(scope["headers"], SESSION)))
        except BadRequestError as error:
            raise RefusalError(
                400, str(error), code="invalid_request", param=error.field
            ) from error

    def _admit(self, body: bytes, key: Key, session: bytes) -> Admission:
        request = parse(body)
        name = str(request["model"])
        conversation = conversation_of(request, session=session, key=key.sha256)
        place = self._switchboard.place(name, conversation, key)
        if self._switchboard.draining:  # since its body began to come
            raise RefusalError(503, "the server is shutting down", code="shutting_down")
        if place is None:
            raise RefusalError(
                404, f"there is no model {name!r} here", code="model_not_found", param="model"
            )
        try:
            fitted = self._fit(request, place.version)
        except RefusalError:
            self._switchboard.traffic.count(place, seconds=None)
            raise
        except BadRequestError:  # where no version of the name takes it, it tells them not apart
            if any(self._takes(request, other) for other in self._switchboard.table.sides(name)):
                self._switchboard.traffic.count(place, seconds=None)
            raise
        models = tuple(self._switchboard.table.names(key))
        return Admission(CHAT, key, models, place, write({**fitted, "model": place.version}))

    def _fit(self, request: dict[str, JsonValue], version: str) -> dict[str, JsonValue]:
        target = self._switchboard.table.versions[version]
        if target.state == "down":
            raise RefusalError(
                503, f"the engine of {version} is being restarted", code="engine_unavailable"
            )
        return fit(request, engine=target.engine, tools=target.tools)

    def _takes(self, request: dict[str, JsonValue], version: str) -> bool:
        target = self._switchboard.table.versions[version]
        try:
            fit(request, engine=target.engine, tools=target.tools)
        except BadRequestError:
            return False
        return True

    def _is_our_host(self, headers: Headers) -> bool:
        hosts = _values(headers, b"host")
        return len(hosts) == 1 and hosts[0].lower() in self._hosts

    def _key(self, headers: Headers) -> Key | None:
        values = _values(headers, b"authorization")
        scheme, _, key = values[0].partition(b" ") if len(values) == 1 else (b"", b"", b"")
        found = self._keys.find(key)  # in any case: how long it takes says nothing about the keys
        return found if scheme.lower() == b"bearer" else None

    async def _read(self, headers: Headers, receive: Receive) -> bytes:
        if any(value.lower() != b"identity" for value in _values(headers, b"content-encoding")):
            raise RefusalError(
                415, "send the body as it is: compressed ones are refused", code="encoding"
            )
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


class _Answer:
    """Sends LiteLLM's answer on without what clients must not see.

    An answer of 500 and above becomes one of ours: 503 where the engine is not there or has too
    much to do, else 502. So does an engine's refusal of our key, which is not about the client's.
    """

    def __init__(self, send: Send) -> None:
        self._send = send
        self._held: Message | None = None
        self._body = bytearray()

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = message.get("headers", [])
            kept = [pair for pair in headers if not pair[0].lower().startswith(HIDDEN_HEADERS)]
            message = {**message, "headers": kept}
            if message["status"] >= 500 or message["status"] in REFUSALS:
                self._held = message
                return
        held = self._held
        if held is None:
            await self._send(message)
            return
        self._body += message.get("body", b"")
        if message.get("more_body", False):
            return
        failure = _engine_failure(held["status"], self._body)
        if failure is not None:
            await _refuse(self._send, failure)
            return
        await self._send(held)
        await self._send({"type": "http.response.body", "body": bytes(self._body)})


def _engine_failure(status: int, body: bytearray) -> RefusalError | None:
    """None where LiteLLM refuses the client."""
    if status in REFUSALS and BY_THE_ENGINE not in body:
        return None
    if UNREACHABLE in body:
        return RefusalError(503, "the engine is being restarted", code="engine_unavailable")
    if status == 429:
        return RefusalError(503, "the engine has too much to do", code="engine_busy")
    return RefusalError(502, "the engine failed: its log says why", code="engine_error")


def _values(headers: Headers, name: bytes) -> list[bytes]:
    return [value for key, value in headers if key.lower() == name]


def _rebuilt(scope: Scope, admission: Admission) -> Scope:
    """The request as LiteLLM sees it: nothing in it that was not checked."""
    method, path = admission.route
    headers = [(name, value) for name, value in scope["headers"] if name.lower() in HEADERS]
    if method == "POST":
        headers.append((b"content-type", b"application/json"))
        headers.append((b"content-length", str(len(admission.body)).encode()))
    return {
        **scope,
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": headers,
        ADMISSION: admission,
    }


def _replay(body: bytes, receive: Receive) -> Receive:
    """Gives the buffered body once, then whatever comes: a client that leaves is still noticed."""
    pending = [{"type": "http.request", "body": body, "more_body": False}]

    async def replayed() -> Message:
        return pending.pop() if pending else await receive()

    return replayed


async def _refuse(send: Send, refusal: RefusalError) -> None:
    error = {
        "message": str(refusal),
        "type": "invalid_request_error" if refusal.status < 500 else "server_error",
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
    if refusal.status == 503:
        headers.append((b"retry-after", str(RETRY_AFTER_S).encode()))
    await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
