"""Recording inside LiteLLM's proxy: the real proxy in a process of its own, and real requests."""

from __future__ import annotations

import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("litellm")
pytest.importorskip("fastapi", reason="needs rwml[serve]")
pytest.importorskip("prisma", reason="needs rwml[serve]")
pytest.importorskip("httpx", reason="needs rwml[serve]")

import httpx

import rwml
from rwml.correlation import HEADER, correlation_headers

KEY = "sk-tests-of-rwml-0123456789abcdef"
START_S = 120
DEADLINE_S = 30
CHAT_TOOLS = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}]
RESPONSES_TOOLS = [{"type": "function", "name": "look", "parameters": {"type": "object"}}]
ANTHROPIC_TOOLS = [{"name": "look", "input_schema": {"type": "object"}}]


class Provider(ThreadingHTTPServer):
    """Speaks the three APIs: looks first, then repeats what it saw. Streams are slow on demand."""

    daemon_threads = True
    made = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Answers(BaseHTTPRequestHandler):
    server: Provider  # type: ignore[reportIncompatibleVariableOverride]

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.made += 1
        name = f"n{self.server.made}"  # LiteLLM takes call_1 for an index, and renames it
        if self.path.endswith("/responses"):
            self._responses(body, name)
        elif self.path.endswith("/messages"):
            self._messages(body, name)
        elif self.path.endswith("/embeddings"):
            vector = {"object": "embedding", "index": 0, "embedding": [0.5]}
            usage = {"prompt_tokens": 1, "total_tokens": 1}
            self._send({"object": "list", "data": [vector], "model": "e", "usage": usage})
        else:
            self._chat(body, name)

    def _chat(self, body: Any, name: str) -> None:
        if body.get("stream"):
            self._stream("slowly said")
            return
        last = body["messages"][-1]
        message: Any = {"role": "assistant", "content": f"saw {last['content']}"}
        if body.get("tools") and last["role"] == "user":
            call = {"name": "look", "arguments": "{}"}
            made = {"id": f"call_{name}", "type": "function", "function": call}
            message = {"role": "assistant", "content": None, "tool_calls": [made]}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        usage = {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}
        self._send({"id": name, "created": 1, "model": "t", "choices": [choice], "usage": usage})

    def _responses(self, body: Any, name: str) -> None:
        item: Any = {"type": "function_call", "id": f"fc_{name}", "call_id": f"call_{name}"}
        item |= {"name": "look", "arguments": "{}", "status": "completed"}
        if "function_call_output" in json.dumps(body["input"]):
            text = {"type": "output_text", "text": "saw it", "annotations": []}
            item = {"type": "message", "id": f"msg_{name}", "role": "assistant", "content": [text]}
            item["status"] = "completed"
        usage: Any = {"input_tokens": 5, "output_tokens": 2, "total_tokens": 7}
        usage["input_tokens_details"] = {"cached_tokens": 0}
        usage["output_tokens_details"] = {"reasoning_tokens": 0}
        reply: Any = {"id": f"resp_{name}", "object": "response", "created_at": 1, "model": "t"}
        reply |= {"status": "completed", "output": [item], "usage": usage, "tools": []}
        reply |= {"parallel_tool_calls": True, "tool_choice": "auto", "error": None}
        reply |= {"incomplete_details": None, "metadata": {}, "temperature": 1, "top_p": 1}
        self._send(reply)

    def _messages(self, body: Any, name: str) -> None:
        last = body["messages"][-1]["content"]
        block: Any = {"type": "text", "text": "saw it"}
        if isinstance(last, str) or last[0]["type"] != "tool_result":
            block = {"type": "tool_use", "id": f"toolu_{name}", "name": "look", "input": {}}
        reply = {"id": f"msg_{name}", "type": "message", "role": "assistant", "model": "claude-t"}
        usage = {"input_tokens": 5, "output_tokens": 2}
        self._send({**reply, "content": [block], "stop_reason": "end_turn", "usage": usage})

    def _stream(self, text: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        try:
            for piece in text:
                choice = {"index": 0, "delta": {"role": "assistant", "content": piece}}
                chunk = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "t"}
                line = f"data: {json.dumps({**chunk, 'choices': [choice]})}\n\n"
                self.wfile.write(line.encode())
                self.wfile.flush()
                time.sleep(0.1)  # so that there is a middle in which a client can leave
            self.wfile.write(b"data: [DONE]\n\n")
        except OSError:
            pass

    def _send(self, reply: Any) -> None:
        body = json.dumps(reply).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class Proxy:
    """LiteLLM's proxy as a process that records into a store."""

    def __init__(self, folder: Path, provider: Provider, **environment: str) -> None:
        self.store_url = f"sqlite:///{folder / 'rwml.db'}"
        self.log = folder / "proxy.log"
        config = folder / "config.yaml"
        config.write_text(json.dumps(self._config(provider)))  # JSON is YAML
        self.url = f"http://127.0.0.1:{free_port()}"
        kept = {k: v for k, v in os.environ.items() if k != "PYTEST_CURRENT_TEST"}
        env = {
            **kept,
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
            "LITELLM_MODE": "PRODUCTION",
            "RWML_STORE": self.store_url,
            **environment,
        }
        command = [sys.executable, "-m", "litellm.proxy.proxy_cli", "--config", str(config)]
        command += ["--host", "127.0.0.1", "--port", self.url.rpartition(":")[2]]
        with self.log.open("w") as output:
            self.process = subprocess.Popen(command, env=env, stdout=output, stderr=output)

    def _config(self, provider: Provider) -> Any:
        chat = {"model": "openai/t", "api_base": f"{provider.url}/v1", "api_key": "none"}
        claude = {"model": "anthropic/claude-t", "api_base": provider.url, "api_key": "none"}
        return {
            "model_list": [
                {"model_name": "chat", "litellm_params": chat},
                {"model_name": "claude", "litellm_params": claude},
            ],
            "litellm_settings": {"callbacks": "rwml_adapters.litellm.proxy_logger"},
            "general_settings": {"master_key": KEY},
        }

    def wait_until_up(self) -> None:
        def is_up() -> bool:
            assert self.process.poll() is None, self.log.read_text()[-2000:]
            try:
                return httpx.get(f"{self.url}/health/liveliness", trust_env=False).is_success
            except httpx.TransportError:
                return False

        wait(is_up, START_S)

    def post(self, path: str, body: Any, **headers: str) -> Any:
        headers = {"Authorization": f"Bearer {KEY}", **headers}
        answer = httpx.post(
            f"{self.url}{path}", json=body, headers=headers, timeout=60, trust_env=False
        )
        assert answer.is_success, answer.text
        return answer.json()

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(DEADLINE_S)
        finally:
            self.process.kill()


def free_port() -> int:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return bound.getsockname()[1]


def wait(condition: Callable[[], object], timeout_s: float = DEADLINE_S) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def provider() -> Iterator[Provider]:
    server = Provider(("127.0.0.1", 0), Answers)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(scope="module")
def proxy(provider: Provider, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    started = Proxy(tmp_path_factory.mktemp("proxy"), provider)
    try:
        started.wait_until_up()
        yield started
    finally:
        started.stop()


def recorded(proxy: Proxy, thread: str, *, steps: int) -> rwml.Trajectory:
    """The one trajectory of a thread, once it has so many steps."""
    found: list[rwml.Trajectory] = []

    def is_there() -> bool:
        nonlocal found
        with rwml.open_store(proxy.store_url, create=False) as store:
            found = [t for t in store.trajectories() if t.metadata.get("thread_id") == thread]
        return sum(len(trajectory.steps) for trajectory in found) >= steps

    wait(is_there)
    assert [len(trajectory.steps) for trajectory in found] == [steps]
    return found[0]


def check(trajectory: rwml.Trajectory) -> None:
    """An agent looked, and said what it saw."""
    first, second = trajectory.steps
    assert trajectory.source == "litellm"
    assert [m.content for m in trajectory.initial if m.role == "user"] == ["q"]
    assert [tool.name for tool in trajectory.tools] == ["look"]
    (call,) = first.action.tool_calls
    assert [(m.tool_call_id, m.content) for m in first.observation] == [(call.id, "found")]
    assert (first.kind, second.status) == ("tool", "pending")
    assert (second.action.content or "").startswith("saw")
    assert first.usage is not None
    assert (first.usage.prompt_tokens, first.usage.completion_tokens) == (5, 2)
    assert first.metadata["model_group"] in ("chat", "claude")


def test_chat_completions(proxy: Proxy) -> None:
    session = {"litellm_session_id": "chat", "user": "someone", "model": "chat"}
    messages: list[Any] = [{"role": "user", "content": "q"}]
    asked = {**session, "messages": messages, "tools": CHAT_TOOLS}
    message = proxy.post("/v1/chat/completions", asked)["choices"][0]["message"]
    call_id = message["tool_calls"][0]["id"]
    messages += [message, {"role": "tool", "tool_call_id": call_id, "content": "found"}]
    proxy.post("/v1/chat/completions", asked)
    found = recorded(proxy, "chat", steps=2)
    check(found)
    assert found.metadata["user"] == "someone"


def test_responses_that_name_the_one_before(proxy: Proxy) -> None:
    asked: Any = {"model": "chat", "instructions": "s", "tools": RESPONSES_TOOLS}
    headers = {"x-litellm-session-id": "responses"}
    first = proxy.post("/v1/responses", {**asked, "input": "q"}, **headers)
    (call,) = first["output"]
    result = {"type": "function_call_output", "call_id": call["call_id"], "output": "found"}
    follow = {**asked, "input": [result], "previous_response_id": first["id"]}
    proxy.post("/v1/responses", follow, **headers)
    found = recorded(proxy, "responses", steps=2)
    check(found)
    assert found.initial[0] == rwml.Message(role="system", content="s")


@pytest.mark.parametrize("model", ["claude", "chat"])  # passed on as it is, and translated
def test_messages_of_anthropic(proxy: Proxy, model: str) -> None:
    messages: list[Any] = [{"role": "user", "content": "q"}]
    asked = {"model": model, "max_tokens": 9, "messages": messages, "tools": ANTHROPIC_TOOLS}
    asked["system"] = "s"
    headers = {"x-litellm-session-id": f"messages-{model}"}
    content = proxy.post("/v1/messages", asked, **headers)["content"]
    (call_id,) = [block["id"] for block in content if block["type"] == "tool_use"]
    result = {"type": "tool_result", "tool_use_id": call_id, "content": "found", "is_error": True}
    messages += [{"role": "assistant", "content": content}, {"role": "user", "content": [result]}]
    proxy.post("/v1/messages", asked, **headers)
    found = recorded(proxy, f"messages-{model}", steps=2)
    check(found)
    assert found.steps[0].status == "error"
    assert found.initial[0] == rwml.Message(role="system", content="s")


def test_a_client_that_leaves_a_stream_gets_its_part_recorded_as_such(proxy: Proxy) -> None:
    asked = {"model": "chat", "messages": [{"role": "user", "content": "q"}], "stream": True}
    headers = {"Authorization": f"Bearer {KEY}", "x-litellm-session-id": "left"}
    url = f"{proxy.url}/v1/chat/completions"
    with httpx.stream("POST", url, json=asked, headers=headers, trust_env=False) as answer:
        for line in answer.iter_lines():
            if "content" in line:
                break
    (step,) = recorded(proxy, "left", steps=1).steps
    assert step.status == "pending"
    assert step.metadata["client_disconnected"] is True
    assert "slowly said".startswith(step.action.content or "")
    assert step.action.content != "slowly said"


def test_a_call_that_the_client_records_is_left_to_it(proxy: Proxy, tmp_path: Path) -> None:
    body = {"model": "chat", "messages": [{"role": "user", "content": "q"}]}
    with (
        rwml.Recorder(store=proxy.store_url) as same,
        rwml.Recorder(store=f"sqlite:///{tmp_path / 'other.db'}") as other,
    ):
        for session, recorder in (("same store", same), ("other store", other)):
            headers = {"x-litellm-session-id": session, **correlation_headers(recorder)}
            proxy.post("/v1/chat/completions", body, **headers)
            sent = headers[HEADER]
    (step,) = recorded(proxy, "other store", steps=1).steps
    assert step.metadata["client_call"] == sent.partition(";")[0]
    with rwml.open_store(proxy.store_url, create=False) as store:
        threads = [t.metadata.get("thread_id") for t in store.trajectories()]
    assert "same store" not in threads


def test_neither_keys_nor_what_is_no_conversation_is_stored(proxy: Proxy) -> None:
    proxy.post("/v1/embeddings", {"model": "chat", "input": "not recorded"})
    refused = httpx.post(
        f"{proxy.url}/v1/chat/completions",
        json={"model": "chat", "messages": [{"role": "user", "content": "refused"}]},
        headers={"Authorization": "Bearer sk-wrong", "x-litellm-session-id": "refused"},
        trust_env=False,
    )
    assert refused.status_code in (400, 401)
    headers = {"x-litellm-session-id": "last"}
    body = {"model": "chat", "messages": [{"role": "user", "content": "recorded"}]}
    proxy.post("/v1/chat/completions", body, **headers)
    recorded(proxy, "last", steps=1)
    raw = b"".join(p.read_bytes() for p in Path(proxy.store_url[10:]).parent.glob("rwml.db*"))
    assert b"recorded" in raw
    for absent in (KEY, "sk-wrong", "not recorded", "refused", "authorization"):
        assert absent.encode() not in raw


def test_sigterm_loses_nothing_while_the_store_is_locked(
    provider: Provider, tmp_path: Path
) -> None:
    proxy = Proxy(tmp_path, provider)
    try:
        proxy.wait_until_up()
        body = {"model": "chat", "messages": [{"role": "user", "content": "warm"}]}
        proxy.post("/v1/chat/completions", body, **{"x-litellm-session-id": "before"})
        recorded(proxy, "before", steps=1)
        writer = sqlite3.connect(tmp_path / "rwml.db", isolation_level=None)
        writer.execute("begin immediate")
        proxy.post("/v1/chat/completions", body, **{"x-litellm-session-id": "during"})
        proxy.process.send_signal(signal.SIGTERM)
        proxy.process.wait(30)
        writer.execute("rollback")
        writer.close()
    finally:
        proxy.stop()
    with rwml.Recorder(store=proxy.store_url):
        pass  # whoever records next brings in what waits on this machine
    recorded(proxy, "during", steps=1)


def test_without_a_store_the_proxy_says_so_and_does_not_start(
    provider: Provider, tmp_path: Path
) -> None:
    proxy = Proxy(tmp_path, provider, RWML_STORE="")
    try:
        proxy.process.wait(START_S)
        assert proxy.process.returncode != 0
        assert "set RWML_STORE" in proxy.log.read_text()
    finally:
        proxy.stop()
