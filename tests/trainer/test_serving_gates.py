"""The gateway's security gates on real sockets: the real LiteLLM proxy, with a stub engine."""

from __future__ import annotations

import gzip
import json
import re
import socket
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("litellm")
pytest.importorskip("fastapi")
pytest.importorskip("prisma")

import httpx
from tests.trainer.client_matrix import CLIENTS, ask_by
from tests.trainer.served_stub import ask, reason, root, serving, text, until

from rwml.errors import ServingError
from rwml_trainer.serving.engine_choice import EngineOptions, choose_engine
from rwml_trainer.serving.keys import KeyFile
from rwml_trainer.serving.registry import Registry
from rwml_trainer.serving.server import Served, serve

AUDIT = """
import os, sys
LOG = os.open(os.environ["PYTHON_TEST_AUDIT_LOG"], os.O_WRONLY | os.O_APPEND)
def note(event, arguments):
    if event in ("open", "os.listdir", "os.scandir", "glob.glob"):
        os.write(LOG, f"{arguments[0]!r}\\n".encode())
sys.addaudithook(note)
"""
TOOLS = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}]


@pytest.fixture(scope="module")
def audit_log(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """What the gateway and the engine open, a line each."""
    folder = tmp_path_factory.mktemp("audit")
    (folder / "sitecustomize.py").write_text(AUDIT)
    log = folder / "opened"
    log.touch()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(folder))
        patch.setenv("PYTHON_TEST_AUDIT_LOG", str(log))
        yield log


@pytest.fixture(scope="module")
def served(
    tiny_model: Path, audit_log: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    with serving(tiny_model, tmp_path_factory.mktemp("gates")) as served:
        yield served


@pytest.fixture
def keys(served: Served) -> Iterator[KeyFile]:
    """The keys of the server; those that a test adds are gone after it."""
    file = KeyFile(served.key_file.parent)
    before = {key.name for key in file.read()}
    yield file
    for key in file.read():
        if key.name not in before:
            file.revoke(key.name)


def send_raw(served: Served, request: bytes) -> bytes:
    """The first bytes of what comes back for raw bytes; empty where the connection ends."""
    host, port = root(served).removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        try:
            connection.sendall(request)
            return connection.recv(4096)
        except ConnectionError:
            return b""


@pytest.fixture(scope="module")
def every_route() -> list[tuple[str, str]]:
    """Method and path of each route of LiteLLM's app, with its parameters filled in."""
    from litellm.proxy.proxy_server import app

    found = {
        (method.upper(), path)
        for path, methods in app.openapi()["paths"].items()
        for method in methods
    }
    waiting: list[Any] = list(app.routes)
    while waiting:  # what the schema leaves out: pages, logins, mounts
        route = waiting.pop()
        waiting += getattr(getattr(route, "original_router", None), "routes", ())
        for method in getattr(route, "methods", None) or ("GET",):
            found.add((method, getattr(route, "path", "/") or "/"))
    return sorted({(method, re.sub(r"{[^}]*}", "x", path)) for method, path in found})


def test_of_all_of_litellms_routes_only_health_answers_without_a_key(
    served: Served, every_route: list[tuple[str, str]]
) -> None:
    assert len(every_route) > 800
    assert {("GET", "/fallback/login"), ("GET", "/public/model_hub")} <= set(every_route)
    answered = []
    with httpx.Client(base_url=root(served), trust_env=False, timeout=60) as client:
        for method, path in every_route:
            status = client.request(method, path).status_code
            if status not in (401, 404):
                answered.append((method, path, status))
    assert answered == [("GET", "/health/liveliness", 200)]


def test_with_the_key_other_routes_do_not_exist_either(
    served: Served, every_route: list[tuple[str, str]]
) -> None:
    known = {"/v1/models", "/models", "/v1/chat/completions", "/chat/completions"}
    headers = {"Authorization": f"Bearer {served.key}"}
    with httpx.Client(base_url=root(served), headers=headers, trust_env=False) as client:
        for method, path in every_route:
            if path not in known | {"/health/liveliness"}:
                assert client.request(method, path).status_code == 404, (method, path)


@pytest.mark.parametrize(
    "authorization",
    [
        "Bearer ' OR '1'='1",
        "Bearer sk-1; DROP TABLE keys;--",
        'Bearer " OR ""="',
        "Bearer ../../keys.json",
        "Bearer %00",
        "Bearer",
        "Basic c2stMTpzay0x",
        "sk-",
    ],
)
def test_what_looks_like_a_key_opens_nothing(served: Served, authorization: str) -> None:
    with httpx.Client(base_url=root(served), trust_env=False) as client:
        answer = client.get("/v1/models", headers={"Authorization": authorization})
    assert answer.status_code == 401
    assert reason(answer) == "invalid_api_key"


@pytest.mark.parametrize(
    "head",
    [
        b"GET /v1/models HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer "
        + b"a" * 65536
        + b"\r\n\r\n",
        b"GET /v1/models HTTP/1.1\r\nHost: x\r\n" + b"a: b\r\n" * 20_000 + b"\r\n",
        b"GET /" + b"a" * 65536 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /v1/models HTTP/1.1\r\nHost: x\r\nAuthorization\r\n\r\n",
        b"GET /v1/models HTTP/1.1\r\nHost: x\r\nA\x00: b\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ],
    ids=["huge header", "many headers", "huge path", "malformed", "NUL", "TLS", "smuggled"],
)
def test_heads_that_are_none_are_refused(served: Served, head: bytes) -> None:
    answer = send_raw(served, head)
    assert answer == b"" or answer.split(b" ")[1] in (b"400", b"431"), answer[:100]
    assert text(ask(served))


@pytest.mark.parametrize("host", ["attacker.example", "127.0.0.1", "localhost:1", ""])
def test_foreign_hosts_are_refused_on_every_route(served: Served, host: str) -> None:
    for path in ("/health/liveliness", "/v1/models", "/ui/"):
        request = f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
        assert send_raw(served, request.encode()).split(b" ")[1] == b"400"


def test_a_key_counts_until_it_is_revoked(served: Served, keys: KeyFile) -> None:
    key = keys.add("ci")
    assert text(ask(served, key=key))
    keys.revoke("ci")
    assert ask(served, key=key).status_code == 401


def test_a_key_counts_until_it_expires(served: Served, keys: KeyFile) -> None:
    key = keys.add("late", expires_at=datetime.now(UTC) + timedelta(hours=1))
    assert text(ask(served, key=key))
    gone = keys.add("gone", expires_at=datetime.now(UTC) - timedelta(seconds=1))
    assert ask(served, key=gone).status_code == 401


@pytest.mark.parametrize(
    ("models", "lists", "statuses"),
    [
        (("world",), ["world", "world@1"], {200}),
        (("world@1",), ["world@1"], {200}),  # also by the name that means it
        (("other",), [], {401, 403}),
    ],
)
def test_a_key_asks_its_models_only(
    served: Served, keys: KeyFile, models: tuple[str, ...], lists: list[str], statuses: set[int]
) -> None:
    key = keys.add("narrow", models=models)
    headers = {"Authorization": f"Bearer {key}"}
    listed = httpx.get(f"{served.endpoint}/models", headers=headers, trust_env=False)
    assert [model["id"] for model in listed.json()["data"]] == lists
    for name in ("world", "world@1"):
        answer = ask(served, key=key, model=name)
        assert answer.status_code in statuses, answer.text


def test_a_key_that_asks_too_often_waits(served: Served, keys: KeyFile) -> None:
    key = keys.add("eager", rpm_limit=2)
    statuses = [ask(served, key=key).status_code for _ in range(4)]
    assert statuses[:2] == [200, 200]
    assert statuses[-1] == 429
    assert text(ask(served))


def test_keys_are_stored_as_hashes_only(served: Served, keys: KeyFile) -> None:
    key = keys.add("hidden")
    kept = [path.read_bytes() for path in served.key_file.parent.iterdir() if path.is_file()]
    assert not any(key.encode() in content for content in kept)
    assert keys.path.stat().st_mode & 0o777 == 0o600


def test_compressed_and_deep_bodies_are_refused(served: Served) -> None:
    headers = {"Authorization": f"Bearer {served.key}"}
    url = f"{served.endpoint}/chat/completions"
    bomb = gzip.compress(b'{"model": "world", "messages": [], "user": "' + b"x" * 10**8 + b'"}')
    packed = {**headers, "Content-Encoding": "gzip"}
    assert httpx.post(url, headers=packed, content=bomb, trust_env=False).status_code == 415
    for depth in (100, 10**6):
        deep = b'{"model": "world", "messages": [], "tools": ' + b"[" * depth + b"]" * depth + b"}"
        assert httpx.post(url, headers=headers, content=deep, trust_env=False).status_code == 400
    assert text(ask(served))


HOSTILE_NAMES = (
    *("../world", "../../../../etc/passwd", "/etc/passwd", "%2e%2e%2fworld", "..%252fworld"),
    *("world/../keys.json", "world\x00.json", "file:///etc/passwd", "os.environ/HOME", "~/.ssh/x"),
)


def test_hostile_requests_open_no_file_outside_the_registry(
    served: Served, audit_log: Path, tmp_path: Path
) -> None:
    canary = tmp_path / "canary.json"
    canary.write_text("{}")
    assert text(ask(served))  # whatever is loaded late is loaded now
    known = audit_log.stat().st_size
    assert known > 0
    for name in (*HOSTILE_NAMES, str(canary)):
        assert ask(served, model=name).status_code == 400
    for field in ("api_base", "callbacks", "model_list", "config", "file", "prompt_id"):
        fields: dict[str, Any] = {field: str(canary)}
        assert ask(served, **fields).status_code == 400
    for path in ("/v1/models/../keys.json", "/v1/files/%2fetc%2fpasswd", "/..%2f..%2fetc/passwd"):
        assert send_raw(served, _get(served, path)).split(b" ")[1] in (b"400", b"404")
    assert text(ask(served, content=f"{{% include '{canary}' %}}"))
    opened = audit_log.read_text()[known:].splitlines()
    outside = [line for line in opened if not _is_expected(line, served)]
    assert outside == []


def _get(served: Served, path: str) -> bytes:
    host = root(served).removeprefix("http://")
    head = f"GET {path} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {served.key}\r\n\r\n"
    return head.encode()


def _is_expected(line: str, served: Served) -> bool:
    """Of the serving folder, or Python's own modules."""
    places = [str(served.key_file.parent), *map(sysconfig.get_path, ("stdlib", "purelib"))]
    path = line.strip("'b\"")
    return any(path.startswith((place, str(Path(place).resolve()))) for place in places)


def test_failures_of_the_engine_do_not_tell_where_it_is(served: Served) -> None:
    answer = ask(served, "fail")
    assert answer.status_code == 502
    assert "127.0.0.1" not in answer.text
    assert "secret" not in answer.text


@pytest.mark.parametrize(
    "fields", [{"n": 2}, {"logprobs": True}, {"stop": ["x"]}, {"tools": TOOLS}]
)
def test_what_the_engine_cannot_do_is_a_clear_400(served: Served, fields: dict[str, Any]) -> None:
    answer = ask(served, **fields)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] in fields


def test_the_gateway_does_not_start_without_a_key(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "rwml_trainer.serving.gateway_process", "--fd", "0"]
    command += ["--config", "none", "--keys", str(tmp_path / "keys.json"), "--control", "0"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    assert "does not start without" in done.stderr


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_soon_leaves_is_not_waited_for_and_no_error(
    served: Served, stream: bool
) -> None:
    control = served.gateway.control
    before = control.report().versions["world@1"].errors
    with pytest.raises(httpx.ReadTimeout):
        ask(served, "wait", timeout_s=1, stream=stream)
    until(lambda: control.count("world@1") == 0)
    assert control.report().versions["world@1"].errors == before


def test_answers_name_the_version(served: Served) -> None:
    answer = ask(served, user="someone")
    assert answer.json()["model"] == "world@1"
    with httpx.stream(
        "POST",
        f"{served.endpoint}/chat/completions",
        headers={"Authorization": f"Bearer {served.key}"},
        json={
            "model": "world",
            "messages": [{"role": "user", "content": "hi"}],
            "stream": True,
            "stream_options": {"include_usage": True},
        },
        trust_env=False,
    ) as stream:
        chunks = [
            json.loads(line[6:]) for line in stream.iter_lines() if line.startswith("data: {")
        ]
    assert {chunk["model"] for chunk in chunks} == {"world@1"}
    assert chunks[-1]["usage"]["total_tokens"] > 0


@pytest.mark.parametrize("client", CLIENTS)
def test_clients_of_all_kinds_get_the_same_answer(served: Served, client: str) -> None:
    expected = text(ask(served))
    whole, pieces = ask_by(client, served, [{"role": "user", "content": "hi"}])
    assert whole == expected
    assert pieces == f"0 1 2 3 4 {expected}"


def test_the_models_are_listed_for_a_client(served: Served) -> None:
    from openai import OpenAI

    client = OpenAI(base_url=served.endpoint, api_key=served.key)
    assert {model.id for model in client.models.list()} == {"world", "world@1"}


def test_a_gateway_serves_an_engine_that_runs_elsewhere(
    served: Served, tiny_model: Path, tmp_path: Path
) -> None:
    """The engine is this server itself: it asks for a key and has ``world@1``."""
    options = EngineOptions(engine_url=served.endpoint, engine_key_file=served.key_file)
    choice = choose_engine(options)
    with serve(
        tiny_model,
        name="world@1",
        out=tmp_path,
        start_engine=choice.start,
        engine_key=choice.key,
    ) as outer:
        assert text(ask(outer)) == text(ask(served))
        assert ask(outer, n=2).json()["error"]["param"] == "n"
        assert outer.key != served.key
        assert outer.fleet._running["world@1"].engine.is_elsewhere
        told = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
        assert not any(served.key.encode() in content for content in told)
        known = Registry(tmp_path).read().versions["world@1"]
        with pytest.raises(ServingError, match=r"has no world@2 .*--served-model-name world@2"):
            choice.start(known.model_copy(update={"step": 2}), tmp_path / "other")
    assert text(ask(served)), "an engine of somebody else goes on"


def test_slow_bodies_do_not_hold_up_others(served: Served) -> None:
    host, port = root(served).removeprefix("http://").split(":")
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: {host}:{port}\r\n"
        f"Authorization: Bearer {served.key}\r\nContent-Length: 1000\r\n\r\n{{"
    ).encode()
    slow = [socket.create_connection((host, int(port))) for _ in range(50)]
    try:
        for connection in slow:
            connection.sendall(head)
        assert text(ask(served))
    finally:
        for connection in slow:
            connection.close()
