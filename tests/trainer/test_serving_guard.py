"""The guard in front of a small application: what passes, what is refused, and in which shape."""

import asyncio
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("httpx")

import httpx

from rwml_trainer.serving.guard import Guard
from rwml_trainer.serving.request_body import FIELDS, BadRequestError, clean

KEY = "sk-test"
HOST = "127.0.0.1:8000"
BEARER = {"Authorization": f"Bearer {KEY}"}
CHAT = {"model": "world", "messages": [{"role": "user", "content": "hi"}]}


class Inner:
    """Stands where LiteLLM would be: remembers what reaches it."""

    def __init__(self):
        self.seen = []

    async def __call__(self, scope, receive, send):
        message = await receive()
        self.seen.append((scope, message["body"]))
        headers = [
            (b"x-litellm-model-api-base", b"http://127.0.0.1:1"),
            (b"llm_provider-date", b"today"),
            (b"x-litellm-call-id", b"7"),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"inner"})


def ask(method, path, *, inner=None, guard=None, **arguments):
    """One request to a guard; returns the answer and what reached the inner application."""
    inner = inner or Inner()
    guard = guard or Guard(inner, key=KEY, hosts=[HOST, "localhost:8000"], body_limit=1000)

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
    assert json.loads(body) == CHAT


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
    guard = Guard(inner, key=KEY, hosts=["127.0.0.1:80", "localhost:80", "[::1]:80"])
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


def test_endless_body_ends_at_the_limit():
    guard = Guard(Inner(), key=KEY, hosts=[HOST], body_limit=1000)
    sent = exchange(guard, [part(b"x" * 600, more=True)] * 2)
    assert sent[0]["status"] == 413


def test_lying_content_length_does_not_help():
    guard = Guard(Inner(), key=KEY, hosts=[HOST], body_limit=1000)
    headers = [(b"host", HOST.encode()), (b"authorization", b"Bearer sk-test")]
    for length in (b"10", b"-1", b"9" * 6000):
        scope = {"headers": [*headers, (b"content-length", length)]}
        sent = exchange(guard, [part(b"x" * 1001, more=False)], scope=scope)
        assert sent[0]["status"] == 413


def test_body_that_never_ends_is_given_up():
    guard = Guard(Inner(), key=KEY, hosts=[HOST], body_timeout_s=0.01)
    assert exchange(guard, [part(b"{", more=True)])[0]["status"] == 408


def test_web_sockets_are_closed():
    inner = Inner()
    guard = Guard(inner, key=KEY, hosts=[HOST])
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

    guard = Guard(app, key=KEY, hosts=[HOST])
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
    ],
)
def test_bodies_that_make_no_sense_are_refused(body):
    with pytest.raises(BadRequestError):
        clean(body)


@pytest.mark.parametrize("content", [None, "hi", [], [{"type": "text", "text": "hi"}]])
def test_text_passes_in_each_of_its_forms(content):
    body = {"model": "world", "messages": [{"role": "user", "content": content}]}
    assert json.loads(clean(json.dumps(body).encode())) == body


def test_a_number_that_is_none_is_answered_with_400():
    body = json.dumps(CHAT)[:-1] + ', "temperature": 1e999}'
    answer, seen = ask("POST", "/v1/chat/completions", headers=BEARER, content=body)
    assert answer.status_code == 400
    assert code(answer) == "invalid_request"
    assert not seen


def test_a_field_given_twice_is_the_one_that_was_checked():
    body = b'{"model": "a", "model": "b", "messages": []}'
    assert json.loads(clean(body)) == {"model": "b", "messages": []}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(sorted(FIELDS)) | st.text(), JSON))
def test_what_passes_is_unchanged_and_has_known_fields_only(extra):
    body = {**extra, **CHAT}
    try:
        passed = json.loads(clean(json.dumps(body).encode()))
    except BadRequestError:
        assert extra.keys() - FIELDS or "tools" in extra or _has_infinity(extra)
    else:
        assert passed == body
        assert passed.keys() <= FIELDS


def _has_infinity(value):
    return "Infinity" in json.dumps(value)
