"""The guard in front of a small application: what passes, what is refused, and in which shape."""

import asyncio
import gzip
import hashlib
import json
from datetime import UTC, datetime
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("httpx")

import httpx

from rwml_trainer.serving import request_body
from rwml_trainer.serving.guard import ADMISSION, Guard
from rwml_trainer.serving.keys import Key
from rwml_trainer.serving.request_body import FIELDS, MAX_DEPTH, BadRequestError, parse, write
from rwml_trainer.serving.routing import Switchboard, Table, Target

KEY = "sk-test"
HOST = "127.0.0.1:8000"
BEARER = {"Authorization": f"Bearer {KEY}"}
CHAT = {"model": "world", "messages": [{"role": "user", "content": "hi"}]}
PASSED = {**CHAT, "model": "world@3"}
ENGINE = Target(url="http://127.0.0.1:1/v1", model="m", engine="transformers", tools=True)


class OneKey:
    """Knows `KEY`, with the limits that it is given."""

    def __init__(self, **limits):
        made = {"name": "ci", "sha256": hashlib.sha256(KEY.encode()).hexdigest()}
        self.key = Key(**made, created_at=datetime.now(UTC), **limits)

    def find(self, secret):
        return self.key if secret == KEY.encode() else None


def switchboard(**states):
    """A model of two versions, of which the newer one counts."""
    versions = {
        "world@3": ENGINE.model_copy(update={"state": states.get("new", "ready")}),
        "world@1": ENGINE.model_copy(update={"state": states.get("old", "ready")}),
    }
    return Switchboard(Table(versions=versions, aliases={"world": "world@3"}))


def make_guard(app, *, keys=None, board=None, hosts=(HOST,), **limits):
    return Guard(
        app, keys=keys or OneKey(), switchboard=board or switchboard(), hosts=hosts, **limits
    )


class Inner:
    """Stands where LiteLLM would be: remembers what reaches it."""

    def __init__(self, status=200, parts=(b"inner",)):
        self.seen = []
        self.status, self.parts = status, parts

    async def __call__(self, scope, receive, send):
        message = await receive()
        self.seen.append((scope, message["body"]))
        headers = [
            (b"x-litellm-model-api-base", b"http://127.0.0.1:1"),
            (b"llm_provider-date", b"today"),
            (b"x-litellm-call-id", b"7"),
        ]
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        for part in self.parts:
            await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


def ask(method, path, *, inner=None, guard=None, **arguments):
    """One request to a guard; returns the answer and what reached the inner application."""
    inner = inner or Inner()
    guard = guard or make_guard(inner, hosts=[HOST, "localhost:8000"], body_limit=1000)

    async def run():
        transport = httpx.ASGITransport(app=guard)
        async with httpx.AsyncClient(transport=transport) as client:
            return await client.request(method, f"http://{HOST}{path}", **arguments)

    return asyncio.run(run()), inner.seen


def code(answer):
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error["code"]


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/chat/completions"])
def test_chat_passes_with_key(path):
    answer, seen = ask("POST", path, headers=BEARER, json=CHAT)
    assert answer.text == "inner"
    [(scope, body)] = seen
    assert scope["path"] == "/v1/chat/completions"
    assert json.loads(body) == PASSED


@pytest.mark.parametrize("path", ["/v1/models", "/models"])
def test_models_pass_with_key(path):
    answer, seen = ask("GET", path, headers=BEARER)
    assert answer.status_code == 200
    assert seen[0][0]["path"] == "/v1/models"


def test_liveliness_needs_no_key():
    assert ask("GET", "/health/liveliness")[0].status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [("Authorization", "Bearer sk-wrong")],
        [("Authorization", "Bearer")],
        [("Authorization", "Bearer ")],
        [("Authorization", KEY)],
        [("Authorization", f"Basic {KEY}")],
        [("Authorization", f"Bearer {KEY} ")],
        [("Authorization", f"Bearer  {KEY}")],
        [("Authorization", f"Bearer {KEY}x")],
        [("Authorization", f"Bearer {KEY[:-1]}")],
        [("Authorization", "Bearer \xff\xfe".encode("latin-1"))],
        [("Authorization", f"Bearer {KEY}"), ("Authorization", f"Bearer {KEY}")],
        [("x-api-key", KEY)],
        [("api-key", KEY)],
        [("x-litellm-api-key", f"Bearer {KEY}")],
    ],
)
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/chat/completions"),
        ("GET", "/v1/chat/completions"),
        ("GET", "/v1/models"),
        ("DELETE", "/models"),
        ("OPTIONS", "/chat/completions"),
    ],
)
def test_without_the_key_nothing_passes(method, path, headers):
    answer, seen = ask(method, path, headers=headers)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert code(answer) == "invalid_api_key"
    assert KEY not in answer.text
    assert not seen


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/"),
        ("GET", "/ui/"),
        ("GET", "/fallback/login"),
        ("POST", "/key/generate"),
        ("GET", "/health"),
        ("POST", "/v1/completions"),
        ("GET", "//v1/models"),
        ("GET", "/v1/models/"),
        ("GET", "/v1/models/../../key/info"),
        ("GET", "/v1/chat/completions"),
        ("HEAD", "/v1/models"),
        ("POST", "/health/liveliness"),
    ],
)
def test_other_routes_do_not_exist(method, path):
    answer, seen = ask(method, path, headers=BEARER)
    assert answer.status_code == 404
    assert not seen


@pytest.mark.parametrize(
    "hosts",
    [["evil.example"], ["evil.example:8000"], ["127.0.0.1"], ["127.0.0.1:8001"], [HOST] * 2],
)
def test_foreign_host_is_refused(hosts):
    answer, seen = ask(
        "GET", "/v1/models", headers=[*BEARER.items(), *(("Host", h) for h in hosts)]
    )
    assert answer.status_code == 400
    assert code(answer) == "invalid_host"
    assert not seen


def test_host_is_compared_without_case():
    headers = {**BEARER, "Host": "LocalHost:8000"}
    assert ask("GET", "/v1/models", headers=headers)[0].status_code == 200


@pytest.mark.parametrize(
    ("given", "status"),
    [
        ("127.0.0.1", 200),
        ("127.0.0.1:80", 200),
        ("LOCALHOST", 200),
        ("[::1]", 200),
        ("127.0.0.1:8000", 400),
        ("127.0.0.1:", 400),
        ("evil.example", 400),
        ("evil.example:80", 400),
    ],
)
def test_port_80_may_be_left_out(given, status):
    inner = Inner()
    guard = make_guard(inner, hosts=["127.0.0.1:80", "localhost:80", "[::1]:80"])
    headers = {**BEARER, "Host": given}
    answer, seen = ask("GET", "/v1/models", inner=inner, guard=guard, headers=headers)
    assert answer.status_code == status
    assert len(seen) == (status == 200)


def test_only_checked_parts_reach_the_application():
    headers = {**BEARER, "x-litellm-timeout": "1", "x-mcp-auth": "a", "Content-Type": "text/plain"}
    _, seen = ask(
        "POST", "/v1/chat/completions?api_base=x", headers=headers, content=json.dumps(CHAT)
    )
    [(scope, body)] = seen
    passed = dict(scope["headers"])
    assert scope["query_string"] == b""
    assert set(passed) <= {
        *(b"accept", b"authorization", b"host", b"user-agent"),
        *(b"content-type", b"content-length"),
    }
    assert passed[b"content-type"] == b"application/json"
    assert int(passed[b"content-length"]) == len(body)


def test_answers_do_not_name_the_engine():
    answer, _ = ask("GET", "/v1/models", headers=BEARER)
    assert "x-litellm-call-id" in answer.headers
    assert not any(name.startswith(("x-litellm-model", "llm_provider")) for name in answer.headers)


def body_of(size):
    text = json.dumps({**CHAT, "user": ""})
    return text.replace('"user": ""', f'"user": "{"x" * (size - len(text))}"').encode()


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize(("size", "status"), [(1000, 200), (1001, 413)])
def test_body_limit(size, status, chunked):
    body = body_of(size)
    assert len(body) == size

    async def chunks():
        for start in range(0, size, 100):
            yield body[start : start + 100]

    content = chunks() if chunked else body
    answer, seen = ask("POST", "/v1/chat/completions", headers=BEARER, content=content)
    assert answer.status_code == status
    assert len(seen) == (status == 200)


def exchange(guard, messages, *, scope=None):
    """Runs raw ASGI messages against a guard; returns what it sends."""
    sent = []
    pending = list(messages)
    chat = {
        "type": "http",
        "method": "POST",
        "path": "/chat/completions",
        "headers": [(b"host", HOST.encode()), (b"authorization", b"Bearer sk-test")],
    }

    async def receive():
        if pending:
            return pending.pop(0)
        await asyncio.Event().wait()
        raise AssertionError

    async def send(message):
        sent.append(message)

    asyncio.run(guard({**chat, **(scope or {})}, receive, send))
    return sent


def part(body, *, more):
    return {"type": "http.request", "body": body, "more_body": more}


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "identity, gzip", ""])
def test_compressed_bodies_are_refused(encoding):
    bomb = gzip.compress(json.dumps({**CHAT, "user": "x" * 10**7}).encode())
    assert len(bomb) < 20_000
    inner = Inner()
    guard = make_guard(inner)
    headers = {**BEARER, "Content-Encoding": encoding}
    answer, _ = ask("POST", "/v1/chat/completions", guard=guard, headers=headers, content=bomb)
    assert answer.status_code == 415
    assert not inner.seen


def test_an_encoding_that_is_none_passes():
    headers = {**BEARER, "Content-Encoding": "identity"}
    answer, _ = ask("POST", "/v1/chat/completions", headers=headers, json=CHAT)
    assert answer.status_code == 200


def nested(depth):
    """A body of so many levels: the object, the tools, and what is inside."""
    inside = b"[" * (depth - 2) + b"]" * (depth - 2)
    return b'{"model": "world", "messages": [], "response_format": {"a": ' + inside + b"}}"


def test_depth_of_a_body_is_bounded():
    assert parse(nested(MAX_DEPTH))
    with pytest.raises(BadRequestError, match=f"deeper than {MAX_DEPTH}"):
        parse(nested(MAX_DEPTH + 1))


LARGE = 4 * 2**20
CHAT_HEAD = b'{"model": "world", "messages": [], "stop": ['


@pytest.mark.parametrize(
    "body",
    [
        CHAT_HEAD + b"[]," * (LARGE // 3) + b"[]]}",
        CHAT_HEAD + b"{}," * (LARGE // 3) + b"{}]}",
        CHAT_HEAD + b'"",' * (LARGE // 3) + b'""]}',
        CHAT_HEAD + b"0," * (LARGE // 2) + b"0]}",
        b"[" * LARGE,
        b'{"":' * (LARGE // 4),
        CHAT_HEAD + b"[" * 1000 + b"]" * 1000 + b"]}",
        json.dumps({**CHAT, "stop": [[]]}).encode("utf-16"),
    ],
    ids=["lists", "objects", "texts", "numbers", "open", "open objects", "deep", "utf-16"],
)
def test_a_body_that_a_parser_would_be_long_at_is_refused_before(body, monkeypatch):
    def read(text, **options):
        raise AssertionError("it was parsed")

    monkeypatch.setattr(request_body.json, "loads", read)
    answer, seen = ask(
        "POST", "/chat/completions", guard=make_guard(Inner()), headers=BEARER, content=body
    )
    monkeypatch.undo()
    assert answer.status_code == 400
    assert code(answer) == "invalid_request"
    assert not seen


def test_brackets_in_texts_are_no_values():
    said = '[{"\\\\"}],' * 100_000
    body = {**CHAT, "messages": [{"role": "user", "content": said}]}
    assert parse(json.dumps(body).encode()) == body


@pytest.mark.parametrize(
    "name",
    [
        *("../world", "..%2fworld", "/etc/passwd", "world/../../etc/passwd", "world\x00", ""),
        *("os.environ/HOME", "http://127.0.0.1:1/v1", "s3://bucket/world", "*", "openai/*"),
        *("world@", "world@3@3", "world@-1", "wor ld", "world\n", "world;drop table", "x" * 500),
    ],
)
def test_names_that_mean_more_than_a_model_are_refused(name):
    answer, seen = ask("POST", "/v1/chat/completions", headers=BEARER, json={**CHAT, "model": name})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "model"
    assert not seen


def test_a_name_means_the_version_of_the_moment():
    board = switchboard()
    inner = Inner()
    guard = make_guard(inner, board=board)
    for name in ("world", "world@1", "world@3"):
        ask(
            "POST",
            "/v1/chat/completions",
            guard=guard,
            headers=BEARER,
            json={**CHAT, "model": name},
        )
    board.table = Table(versions=board.table.versions, aliases={"world": "world@1"})
    ask("POST", "/v1/chat/completions", guard=guard, headers=BEARER, json=CHAT)
    asked = [json.loads(body)["model"] for _, body in inner.seen]
    assert asked == ["world@3", "world@1", "world@3", "world@1"]


@pytest.mark.parametrize(
    ("states", "model", "status", "reason"),
    [
        ({"new": "down"}, "world", 503, "engine_unavailable"),
        ({"new": "down"}, "world@3", 503, "engine_unavailable"),
        ({"new": "down"}, "world@1", 200, None),
        ({"old": "leaving"}, "world@1", 404, "model_not_found"),
        ({}, "world@2", 404, "model_not_found"),
        ({}, "gpt-4", 404, "model_not_found"),
    ],
)
def test_a_version_is_asked_only_where_it_can_answer(states, model, status, reason):
    guard = make_guard(Inner(), board=switchboard(**states))
    body = {**CHAT, "model": model}
    answer, _ = ask("POST", "/v1/chat/completions", guard=guard, headers=BEARER, json=body)
    assert answer.status_code == status
    if reason:
        assert code(answer) == reason
    assert ("retry-after" in answer.headers) == (status == 503)


@pytest.mark.parametrize(
    ("models", "names"),
    [
        ((), ["world", "world@3", "world@1"]),
        (("world",), ["world", "world@3", "world@1"]),
        (("world@1",), ["world@1"]),
        (("other",), []),
    ],
)
def test_litellm_is_told_what_the_key_may_ask(models, names):
    inner = Inner()
    ask("GET", "/models", guard=make_guard(inner, keys=OneKey(models=models)), headers=BEARER)
    [(scope, _)] = inner.seen
    assert list(scope[ADMISSION].models) == names
    assert scope[ADMISSION].key.name == "ci"


@pytest.mark.parametrize(("method", "path"), [("GET", "/models"), ("POST", "/chat/completions")])
def test_nobody_is_let_in_while_the_server_ends(method, path):
    board = switchboard()
    board.draining = True
    answer, _ = ask(method, path, guard=make_guard(Inner(), board=board), headers=BEARER, json=CHAT)
    assert answer.status_code == 503
    assert code(answer) == "shutting_down"


def test_requests_in_flight_are_counted_until_they_end():
    board = switchboard()
    counts = []

    async def app(scope, receive, send):
        counts.append((board.in_flight("world@3"), board.is_idle))
        raise OSError("the client is gone")

    with pytest.raises(OSError, match="client"):
        ask(
            "POST",
            "/chat/completions",
            guard=make_guard(app, board=board),
            headers=BEARER,
            json=CHAT,
        )
    assert counts == [(1, False)]
    assert board.is_idle


@pytest.mark.parametrize(
    ("status", "text", "seen", "reason"),
    [
        (500, b"OpenAIException - Connection error.", 503, "engine_unavailable"),
        (500, b"secret at http://127.0.0.1:4711", 502, "engine_error"),
        (503, b"x", 502, "engine_error"),
    ],
)
def test_failures_of_the_engine_are_told_in_our_words(status, text, seen, reason):
    inner = Inner(status=status, parts=[text[:7], text[7:]])
    answer, _ = ask("POST", "/chat/completions", inner=inner, headers=BEARER, json=CHAT)
    assert answer.status_code == seen
    assert code(answer) == reason
    assert "127.0.0.1" not in answer.text


@pytest.mark.parametrize("status", [400, 401, 429])
def test_other_answers_of_litellm_pass(status):
    inner = Inner(status=status, parts=[b"why"])
    answer, _ = ask("POST", "/chat/completions", inner=inner, headers=BEARER, json=CHAT)
    assert (answer.status_code, answer.text) == (status, "why")


def test_a_client_that_does_not_read_is_given_up():
    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def never(message):
        await asyncio.Event().wait()

    guard = make_guard(app, send_timeout_s=0.01)
    headers = [(b"host", HOST.encode()), (b"authorization", f"Bearer {KEY}".encode())]
    scope = {"type": "http", "method": "GET", "path": "/models", "headers": headers}

    async def nothing():
        return {"type": "http.request"}

    async def run():
        await guard(scope, nothing, never)

    with pytest.raises(TimeoutError):
        asyncio.run(run())


def test_endless_body_ends_at_the_limit():
    guard = make_guard(Inner(), body_limit=1000)
    sent = exchange(guard, [part(b"x" * 600, more=True)] * 2)
    assert sent[0]["status"] == 413


def test_lying_content_length_does_not_help():
    guard = make_guard(Inner(), body_limit=1000)
    headers = [(b"host", HOST.encode()), (b"authorization", b"Bearer sk-test")]
    for length in (b"10", b"-1", b"9" * 6000):
        scope = {"headers": [*headers, (b"content-length", length)]}
        sent = exchange(guard, [part(b"x" * 1001, more=False)], scope=scope)
        assert sent[0]["status"] == 413


def test_body_that_never_ends_is_given_up():
    guard = make_guard(Inner(), body_timeout_s=0.01)
    assert exchange(guard, [part(b"{", more=True)])[0]["status"] == 408


def test_web_sockets_are_closed():
    inner = Inner()
    guard = make_guard(inner)
    sent = exchange(guard, [{"type": "websocket.connect"}], scope={"type": "websocket"})
    assert [message["type"] for message in sent] == ["websocket.close"]
    assert not inner.seen


def test_stream_passes_as_it_comes_and_a_leaving_client_is_noticed():
    events = []

    async def app(scope, receive, send):
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for number in (b"1", b"2"):
            await send({"type": "http.response.body", "body": number, "more_body": True})
            events.append(number)
        events.append((await receive())["type"])

    guard = make_guard(app)
    body = part(json.dumps(CHAT).encode(), more=False)
    sent = exchange(guard, [body, {"type": "http.disconnect"}])
    assert [message.get("body") for message in sent] == [None, b"1", b"2"]
    assert events == [b"1", b"2", "http.disconnect"]


@pytest.mark.parametrize(
    "field",
    [
        *("api_base", "base_url", "api_key", "callbacks", "success_callback", "fallbacks"),
        *("custom_llm_provider", "mock_response", "model_list", "metadata", "litellm_metadata"),
        *("extra_headers", "extra_body", "user_config", "guardrails", "chat_template_kwargs"),
        "generation_config",
    ],
)
def test_fields_that_choose_more_than_the_completion_are_refused(field):
    body = {**CHAT, field: "x"}
    answer, seen = ask("POST", "/v1/chat/completions", headers=BEARER, json=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == field
    assert not seen


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'"text"',
        b"\xff",
        b'{"model": "world"}',
        b'{"messages": []}',
        b'{"model": ["a"], "messages": []}',
        b'{"model": "world", "messages": ["hi"]}',
        b'{"model": "world", "messages": [], "seed": NaN}',
        b'{"model": "world", "messages": [], "tools": [{"type": "mcp", "server_url": "http://x"}]}',
        b'{"model": "world", "messages": [{"role": "user", "content": [{"type": "image_url"}]}]}',
        b'{"model": "world", "messages": [{"content": {"type": "image_url", "image_url": "x"}}]}',
        b'{"model": "world", "messages": [{"content": {"type": "text", "text": "hi"}}]}',
        b'{"model": "world", "messages": [{"content": 1}]}',
        b'{"model": "world", "messages": [{"content": ["hi"]}]}',
        b'{"model": "world", "messages": [], "temperature": 1e999}',
        b'{"model": "world", "messages": [], "logit_bias": {"1": -1e999}}',
        b"[" * 100_000,
        b'{"model": "world", "messages": [], "seed": ' + b"9" * 5000 + b"}",
        b'{"model": "world", "messages": [], "seed": 9223372036854775808}',
        b'{"model": "world", "messages": [], "max_tokens": -9223372036854775808}',
    ],
)
def test_bodies_that_make_no_sense_are_refused(body):
    with pytest.raises(BadRequestError):
        write(parse(body))


def test_a_seed_may_be_as_large_as_an_engine_takes():
    body = {"model": "world", "messages": [], "seed": 2**63 - 1}
    assert parse(json.dumps(body).encode()) == body


@pytest.mark.parametrize("content", [None, "hi", [], [{"type": "text", "text": "hi"}]])
def test_text_passes_in_each_of_its_forms(content):
    body = {"model": "world", "messages": [{"role": "user", "content": content}]}
    assert json.loads(write(parse(json.dumps(body).encode()))) == body


def test_a_number_that_is_none_is_answered_with_400():
    body = json.dumps(CHAT)[:-1] + ', "temperature": 1e999}'
    answer, seen = ask("POST", "/v1/chat/completions", headers=BEARER, content=body)
    assert answer.status_code == 400
    assert code(answer) == "invalid_request"
    assert not seen


def test_a_field_given_twice_is_the_one_that_was_checked():
    body = b'{"model": "a", "model": "b", "messages": []}'
    assert parse(body) == {"model": "b", "messages": []}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


SHAPES = st.recursive(
    st.integers() | st.text(alphabet='[]{},:"\\\\ñ\x00a'),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(alphabet='[{"\\\\'), inner, max_size=3)
    ),
    max_leaves=20,
)


@given(SHAPES, st.integers(1, 6), st.booleans())
def test_depth_is_that_which_a_parser_finds(value, most, escaped):
    body = json.dumps({**CHAT, "stop": value}, ensure_ascii=escaped).encode()
    with mock.patch.object(request_body, "MAX_DEPTH", most):
        if 1 + max(_depth(value), 2) > most:  # `messages` holds an object
            with pytest.raises(BadRequestError, match="deeper"):
                parse(body)
        else:
            assert parse(body)["stop"] == value


def _depth(value):
    if not isinstance(value, list | dict):
        return 0
    inner = value.values() if isinstance(value, dict) else value
    return 1 + max(map(_depth, inner), default=0)


@given(st.dictionaries(st.sampled_from(sorted(FIELDS)) | st.text(), JSON))
def test_what_passes_is_unchanged_and_has_known_fields_only(extra):
    body = {**extra, **CHAT}
    try:
        passed = json.loads(write(parse(json.dumps(body).encode())))
    except BadRequestError:
        assert extra.keys() - FIELDS or "tools" in extra or _has_infinity(extra)
    else:
        assert passed == body
        assert passed.keys() <= FIELDS


def _has_infinity(value):
    return "Infinity" in json.dumps(value)
