"""The LiteLLM adapter on real litellm calls: a scripted provider, and a real server on loopback."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("litellm")

import litellm as real_litellm

import rwml
from rwml.correlation import correlation_headers, read_headers
from rwml.schema import Usage
from rwml_adapters.litellm import RWMLLogger, instrument
from rwml_adapters.litellm.logger import _CALLBACK_LISTS

litellm: Any = real_litellm
DEADLINE_S = 20
QUESTION = {"role": "user", "content": "q"}
TOOLS = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}]


class Endpoint(ThreadingHTTPServer):
    """An OpenAI endpoint that looks first and then repeats what it saw; may fail at first."""

    daemon_threads = True
    failures = 0

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.headers: list[dict[str, str]] = []

    @property
    def asked(self) -> int:
        return len(self.headers)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class Answers(BaseHTTPRequestHandler):
    server: Endpoint  # type: ignore[reportIncompatibleVariableOverride]

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.headers.append({k.lower(): v for k, v in self.headers.items()})
        if self.server.failures:
            self.server.failures -= 1
            self.send_error(500)
            return
        if self.path.endswith("/responses"):
            self._respond(body)
            return
        last = body["messages"][-1]
        if last["role"] == "user":
            made = {"name": "look", "arguments": '{"at": "x"}'}
            call = {"id": f"c{len(body['messages'])}", "type": "function", "function": made}
            message = {"role": "assistant", "content": None, "tool_calls": [call]}
        else:
            message = {"role": "assistant", "content": f"saw {last['content']}"}
        usage = {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}
        about = {"id": "1", "created": 1, "model": "tiny-1"}
        if body.get("stream"):
            self._stream(message, about, usage)
            return
        choice = {"index": 0, "message": message, "finish_reason": "stop", "token_ids": [7, 8]}
        tokens = [{"token": t, "logprob": -0.5, "bytes": [], "top_logprobs": []} for t in "ab"]
        choice["logprobs"] = {"content": tokens}
        reply = {**about, "object": "chat.completion", "choices": [choice], "usage": usage}
        self._send("application/json", json.dumps(reply).encode())

    def _respond(self, body: Any) -> None:
        name = f"n{self.server.asked}"
        item: Any = {"type": "function_call", "id": f"fc_{name}", "call_id": f"call_{name}"}
        item |= {"name": "look", "arguments": '{"at": "x"}', "status": "completed"}
        reply: Any = {
            "id": f"resp_{name}",
            "object": "response",
            "created_at": 1,
            "model": "tiny-1",
        }
        reply |= {"status": "completed", "output": [item], "tools": [], "metadata": {}}
        reply |= {"parallel_tool_calls": True, "tool_choice": "auto", "error": None}
        if not body.get("stream"):
            self._send("application/json", json.dumps(reply).encode())
            return
        kinds = {"response.created": {**reply, "output": []}, "response.completed": reply}
        events = [
            {"type": kind, "response": inner, "sequence_number": place}
            for place, (kind, inner) in enumerate(kinds.items())
        ]
        text = "".join(f"event: {e['type']}\ndata: {json.dumps(e)}\n\n" for e in events)
        self._send("text/event-stream", text.encode())

    def _stream(self, message: Any, about: Any, usage: Any) -> None:
        pieces: list[Any] = [{"role": "assistant", "content": ""}]
        pieces += [{"content": c} for c in message["content"] or ""]
        for call in message.get("tool_calls", ()):
            made = call["function"]
            pieces.append(
                {"tool_calls": [{**call, "index": 0, "function": {**made, "arguments": ""}}]}
            )
            pieces += [
                {"tool_calls": [{"index": 0, "function": {"arguments": c}}]}
                for c in made["arguments"]
            ]
        chunks: list[Any] = [
            {"choices": [{"index": 0, "delta": piece, "finish_reason": None}]} for piece in pieces
        ]
        chunks.append({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
        chunks.append({"choices": [], "usage": usage})
        lines = [
            json.dumps({**about, "object": "chat.completion.chunk", **chunk}) for chunk in chunks
        ]
        text = "".join(f"data: {line}\n\n" for line in [*lines, "[DONE]"])
        self._send("text/event-stream", text.encode())

    def _send(self, kind: str, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    server = Endpoint(("127.0.0.1", 0), Answers)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


class Recorded:
    """A recorder that is instrumented, and what it has recorded so far."""

    def __init__(self, recorder: rwml.Recorder, store: rwml.Store, undo: Any) -> None:
        self.recorder, self.store, self.undo = recorder, store, undo

    @property
    def logger(self) -> RWMLLogger:
        (found,) = (c for c in litellm.callbacks if isinstance(c, RWMLLogger))
        return found

    def after(self, completions: int) -> list[rwml.Trajectory]:
        """The trajectories, once litellm has told of so many calls."""
        wait(lambda: self.logger.stats.completions >= completions)
        assert self.logger.stats.completions == completions
        assert self.recorder.flush(30)
        assert self.recorder.stats.errors == 0
        return list(self.store.trajectories())


def wait(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.01)


async def await_(condition: Callable[[], bool]) -> None:
    """As `wait`, in a loop that goes on running: litellm calls back in a task of it."""
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        await asyncio.sleep(0.01)


@pytest.fixture
def recorded(tmp_path: Path) -> Iterator[Recorded]:
    with (
        rwml.open_store(f"sqlite:///{tmp_path / 'rwml.db'}") as store,
        rwml.Recorder(store=store) as recorder,
    ):
        undo = instrument(recorder)
        yield Recorded(recorder, store, undo)
        undo()


def ask(endpoint: Endpoint, messages: list[Any], **more: Any) -> Any:
    return litellm.completion(
        "openai/tiny",
        messages,
        api_base=endpoint.url,
        api_key="none",
        tools=TOOLS,
        _skip_mcp_handler=True,
        **{"max_retries": 0, **more},
    )


async def aask(endpoint: Endpoint, messages: list[Any], **more: Any) -> Any:
    return await litellm.acompletion(
        "openai/tiny",
        messages,
        api_base=endpoint.url,
        api_key="none",
        tools=TOOLS,
        _skip_mcp_handler=True,
        **{"max_retries": 0, **more},
    )


def observed(message: Any) -> list[Any]:
    calls = message.tool_calls or ()
    return [{"role": "tool", "tool_call_id": c.id, "content": f"<{c.id}>"} for c in calls]


def run(endpoint: Endpoint, *, stream: bool = False, **more: Any) -> list[Any]:
    """A small agent: looks, answers, and is asked once more."""
    messages: list[Any] = [QUESTION]
    for _ in range(2):
        answer = ask(endpoint, list(messages), stream=stream, **more)
        if stream:
            answer = litellm.stream_chunk_builder(list(answer), messages=messages)
        message = answer.choices[0].message
        messages += [message, *observed(message)]
    return messages


async def arun(recorded: Recorded, endpoint: Endpoint, *, stream: bool = False) -> None:
    messages: list[Any] = [QUESTION]
    for _ in range(2):
        answer = await aask(endpoint, list(messages), stream=stream)
        if stream:
            answer = litellm.stream_chunk_builder([c async for c in answer], messages=messages)
        message = answer.choices[0].message
        messages += [message, *observed(message)]
    await await_(lambda: recorded.logger.stats.completions == 2)


def check(found: rwml.Trajectory) -> None:
    first, second = found.steps
    assert found.source == "litellm"
    assert [m.content for m in found.initial] == ["q"]
    assert [tool.name for tool in found.tools] == ["look"]
    assert [(c.id, c.arguments) for c in first.action.tool_calls] == [("c1", {"at": "x"})]
    assert [(m.tool_call_id, m.content) for m in first.observation] == [("c1", "<c1>")]
    assert (first.kind, first.status, second.status) == ("tool", "ok", "pending")
    assert second.action.content == "saw <c1>"
    assert first.usage == Usage(prompt_tokens=5, completion_tokens=2)
    assert first.latency_s is not None
    assert 0 < first.latency_s < DEADLINE_S
    assert "tiny" in str(first.model)


@pytest.mark.parametrize("stream", [False, True])
def test_synchronous(recorded: Recorded, endpoint: Endpoint, stream: bool) -> None:
    run(endpoint, stream=stream)
    (found,) = recorded.after(2)
    check(found)


@pytest.mark.parametrize("stream", [False, True])
def test_asynchronous(recorded: Recorded, endpoint: Endpoint, stream: bool) -> None:
    asyncio.run(arun(recorded, endpoint, stream=stream))
    (found,) = recorded.after(2)
    check(found)


def test_the_callers_list_may_change_at_once(recorded: Recorded, endpoint: Endpoint) -> None:
    messages: list[Any] = [QUESTION]
    messages.append(ask(endpoint, messages).choices[0].message)
    messages.clear()
    (found,) = recorded.after(1)
    assert [m.content for m in found.initial] == ["q"]


def test_retries_are_one_step(recorded: Recorded, endpoint: Endpoint) -> None:
    endpoint.failures = 1
    ask(endpoint, [QUESTION], num_retries=2)
    assert endpoint.asked == 2
    wait(lambda: recorded.logger.stats.completions > recorded.logger.stats.failed)
    recorded.recorder.flush(30)
    (found,) = recorded.store.trajectories()
    assert len(found.steps) == 1


def test_a_failed_call_is_no_step_and_the_caller_sees_its_error(
    recorded: Recorded, endpoint: Endpoint
) -> None:
    first = ask(endpoint, [QUESTION]).choices[0].message
    recorded.after(1)
    endpoint.failures = 1
    with pytest.raises(litellm.InternalServerError):
        ask(endpoint, [QUESTION, first, *observed(first)])
    (found,) = recorded.after(2)
    assert [(s.status, len(s.observation)) for s in found.steps] == [("ok", 1)]
    assert recorded.logger.stats.failed == 1


def test_sessions_keep_equal_conversations_apart(recorded: Recorded, endpoint: Endpoint) -> None:
    run(endpoint, litellm_session_id="one")
    run(endpoint, metadata={"session_id": "two", "trace_id": "t"})
    run(endpoint)
    run(endpoint)  # the same without a session: nothing new
    found = recorded.after(8)
    sessions = [t.metadata.get("thread_id") for t in found]
    assert sorted(map(str, sessions)) == ["None", "one", "two"]
    for trajectory in found:
        check(trajectory)
        provenance = trajectory.steps[0].provenance
        assert provenance is not None
        assert provenance.thread_id == trajectory.metadata.get("thread_id")
        assert provenance.run_id


def test_threads_do_not_mix(recorded: Recorded, endpoint: Endpoint) -> None:
    def one(number: int) -> None:
        run(endpoint, litellm_session_id=str(number))

    threads = [threading.Thread(target=one, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = recorded.after(16)
    assert sorted(t.metadata["thread_id"] for t in found) == sorted(map(str, range(8)))  # type: ignore[type-var]
    for trajectory in found:
        check(trajectory)


def test_a_provider_of_ones_own(recorded: Recorded, monkeypatch: pytest.MonkeyPatch) -> None:
    class Scripted(litellm.CustomLLM):
        def completion(self, *args: Any, **kwargs: Any) -> Any:
            choices = [
                {"index": n, "message": {"role": "assistant", "content": f"answer {n}"}}
                for n in range(2)
            ]
            return litellm.ModelResponse(choices=choices, model="scripted-1")

    provider = {"provider": "scripted", "custom_handler": Scripted()}
    monkeypatch.setattr(litellm, "custom_provider_map", [provider])
    litellm.completion("scripted/m", [QUESTION])
    found = recorded.after(2)  # two choices: two branches
    assert sorted(t.steps[0].action.content or "" for t in found) == ["answer 0", "answer 1"]


def test_what_is_no_chat_or_hidden_is_left_alone(recorded: Recorded, endpoint: Endpoint) -> None:
    wire = {"call_type": "embedding", "messages": [QUESTION]}
    now = datetime.now(UTC)
    recorded.logger.log_success_event(wire, None, now, now)
    recorded.logger.log_success_event(wire, None, now, now)
    hidden = [{"role": "user", "content": "redacted-by-litellm"}]
    recorded.logger.log_success_event(
        {"call_type": "completion", "messages": hidden}, None, now, now
    )
    assert recorded.after(0) == []
    assert recorded.logger.skipped == {"embedding": 2, "message logging is off": 1}


def test_tokens_are_kept_when_the_observation_comes(recorded: Recorded, endpoint: Endpoint) -> None:
    run(endpoint)
    (found,) = recorded.after(2)
    assert [(s.token_ids, s.logprobs) for s in found.steps] == [((7, 8), (-0.5, -0.5))] * 2


def test_tenants_and_users_are_kept_apart_and_named(recorded: Recorded, endpoint: Endpoint) -> None:
    run(endpoint, metadata={"tenant": "acme"})
    run(endpoint, metadata={"tenant": "globex"}, litellm_session_id="one")
    run(endpoint, user="somebody")
    found = recorded.after(6)
    for trajectory in found:
        check(trajectory)
    assert sorted(json.dumps(t.metadata, sort_keys=True) for t in found) == [
        '{"tenant": "acme"}',
        '{"tenant": "globex", "thread_id": "one"}',
        '{"user": "somebody"}',
    ]


def test_a_routers_fallback_is_one_step(recorded: Recorded, endpoint: Endpoint) -> None:
    parameters = {"model": "openai/tiny", "api_base": endpoint.url, "api_key": "none"}
    router = litellm.Router(
        model_list=[
            {"model_name": "first", "litellm_params": {**parameters, "max_retries": 0}},
            {"model_name": "second", "litellm_params": parameters},
        ],
        fallbacks=[{"first": ["second"]}],
        num_retries=0,
    )
    endpoint.failures = 1
    router.completion("first", [QUESTION])
    wait(lambda: recorded.logger.stats.completions - recorded.logger.stats.failed == 1)
    assert recorded.recorder.flush(30)
    (found,) = recorded.store.trajectories()
    (step,) = found.steps
    assert step.metadata["model_group"] == "second"


def test_an_answer_from_the_cache_is_the_same_step(
    recorded: Recorded, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(litellm, "cache", litellm.Cache(type="local"))
    for _ in range(2):
        ask(endpoint, [QUESTION], caching=True)
    (found,) = recorded.after(2)
    assert endpoint.asked == 1
    assert len(found.steps) == 1
    assert recorded.logger.stats.duplicates == 1


@pytest.mark.parametrize("stream", [False, True])
def test_responses_go_on_from_the_one_before(
    recorded: Recorded, endpoint: Endpoint, stream: bool
) -> None:
    def respond(new: Any, **more: Any) -> Any:
        about = {"api_base": endpoint.url, "api_key": "none", "instructions": "s"}
        answer = litellm.responses(input=new, model="openai/tiny", stream=stream, **about, **more)
        if stream:
            answer = list(answer)[-1].response
        return answer

    first = respond("q")
    wait(lambda: recorded.logger.stats.completions >= 1)
    call_id = first.output[0].call_id
    result = {"type": "function_call_output", "call_id": call_id, "output": "found"}
    respond([result], previous_response_id=first.id)
    stats = recorded.logger
    wait(lambda: stats.stats.completions - stats.stats.duplicates == 2)
    assert recorded.recorder.flush(30)
    (found,) = recorded.store.trajectories()
    assert [(m.role, m.content) for m in found.initial] == [("system", "s"), ("user", "q")]
    assert [(m.tool_call_id, m.content) for m in found.steps[0].observation] == [(call_id, "found")]
    assert found.steps[0].action.tool_calls[0].arguments == {"at": "x"}
    assert len(found.steps) == 2


def test_asynchronous_calls_tell_a_gateway_of_ones_own_who_records_them(
    tmp_path: Path, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    def send(**more: Any) -> None:
        asyncio.run(aask(endpoint, [QUESTION], **more))

    monkeypatch.setenv("RWML_GATEWAY", f"{endpoint.url}/")
    with rwml.Recorder(store=f"sqlite:///{tmp_path / 'rwml.db'}") as recorder:
        undo = instrument(recorder)
        send(extra_headers={"x-other": "kept"})
        expected = read_headers(correlation_headers(recorder))
        undo()
        send()
        monkeypatch.setenv("RWML_GATEWAY", "http://127.0.0.1:1")
        undo = instrument(recorder)
        send()
        undo()
    first, second, third = map(read_headers, endpoint.headers)
    assert first is not None
    assert expected is not None
    assert first.store == expected.store
    assert endpoint.headers[0]["x-other"] == "kept"
    assert second is third is None


def test_a_broken_recorder_is_not_the_callers_problem(
    recorded: Recorded, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    def explode(*_: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.delenv("PYTEST_CURRENT_TEST")
    monkeypatch.setattr(recorded.logger, "_write", explode)
    assert ask(endpoint, [QUESTION]).choices[0].message.tool_calls[0].id == "c1"
    wait(lambda: recorded.recorder.stats.errors == 1)


def test_undo_leaves_litellm_as_it_was(recorded: Recorded, endpoint: Endpoint) -> None:
    ask(endpoint, [QUESTION])
    recorded.after(1)
    logger = recorded.logger
    recorded.undo()
    for name in _CALLBACK_LISTS:
        assert not any(callback is logger for callback in getattr(litellm, name))
    ask(endpoint, [QUESTION, {"role": "user", "content": "again"}])
    logger.log_success_event({"call_type": "completion", "messages": [QUESTION]}, None, 0, 0)
    assert logger.stats.completions == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forks_child_records_on_its_own(recorded: Recorded, endpoint: Endpoint) -> None:
    ask(endpoint, [QUESTION])
    recorded.after(1)
    logger, now = recorded.logger, datetime.now(UTC)
    answer = litellm.ModelResponse(choices=[{"message": {"role": "assistant", "content": "a"}}])
    asked = {"call_type": "completion", "messages": [{"role": "user", "content": "child"}]}
    with logger._lock:  # as if another thread had it
        child = os.fork()
        if child == 0:
            logger.log_success_event(asked, answer, now, now)
            is_whole = recorded.recorder.flush(30) and logger.stats.completions == 1
            os._exit(0 if is_whole else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert {t.initial[0].content for t in recorded.store.trajectories()} == {"q", "child"}


@pytest.mark.parametrize("mode", ["sync", "async", "stream", "astream"])
def test_a_call_through_langchain_is_one_step(
    recorded: Recorded, endpoint: Endpoint, mode: str
) -> None:
    chat = pytest.importorskip("langchain_litellm")
    from rwml_adapters import langchain

    undo = langchain.instrument(recorded.recorder)
    taken: list[Any] = []
    covers = recorded.recorder.outer_calls.covers

    def watch(*args: Any, **kwargs: Any) -> str | None:
        taken.append(covers(*args, **kwargs))
        return taken[-1]

    recorded.recorder.outer_calls.covers = watch
    model = chat.ChatLiteLLM(
        model="openai/tiny", api_base=endpoint.url, api_key="none", max_retries=0
    )

    async def acall() -> None:
        if mode == "async":
            await model.ainvoke("q")
        else:
            async for _ in model.astream("q"):
                pass
        await await_(lambda: len(taken) == 1)

    try:
        if mode == "sync":
            model.invoke("q")
        elif mode == "stream":
            assert list(model.stream("q"))
        else:
            asyncio.run(acall())
        wait(lambda: len(taken) == 1)
        ask(endpoint, [QUESTION, {"role": "user", "content": "not through LangChain"}])
        wait(lambda: len(taken) == 2)
    finally:
        undo()
    assert [name is None for name in taken] == [False, True]
    outer, inner = sorted(recorded.after(1), key=lambda t: t.source)
    assert (outer.source, inner.source) == ("langgraph", "litellm")
    if mode in ("sync", "async"):  # in a stream LiteLLM gives no token ids
        assert outer.steps[0].token_ids == (7, 8)
    assert outer.steps[0].model


def test_recording_starts_when_the_program_imports_litellm(tmp_path: Path) -> None:
    code = (
        "import sys, importlib.util\n"
        "import rwml, rwml_adapters.litellm as adapter\n"
        "recorder = rwml.Recorder(store=sys.argv[1])\n"
        "undo = adapter.instrument(recorder)\n"
        "other = adapter.instrument(recorder)\n"
        "other()\n"
        "assert 'litellm' not in sys.modules\n"
        "assert importlib.util.find_spec('litellm')\n"
        "import litellm\n"
        "assert type(litellm.__spec__.loader).__name__ == 'SourceFileLoader'\n"
        "assert 'exec_module' not in vars(litellm.__spec__.loader)\n"
        "print([type(c).__name__ for c in litellm.callbacks])\n"
        "undo()\n"
        "print(litellm.callbacks, [f for f in sys.meta_path if 'rwml' in repr(f)])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, f"sqlite:///{tmp_path / 'rwml.db'}"],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["['RWMLLogger']", "[] []"]


def test_what_litellm_has_not_told_of_at_the_end_is_recorded(
    tmp_path: Path, endpoint: Endpoint
) -> None:
    code = (
        "import asyncio, sys, litellm, rwml\n"
        "rwml.instrument(store=sys.argv[1])\n"
        "async def ask(number):\n"
        "    question = [{'role': 'user', 'content': str(number)}]\n"
        "    about = {'api_base': sys.argv[2], 'api_key': 'none', 'max_retries': 0}\n"
        "    await litellm.acompletion('openai/tiny', question, **about)\n"
        "async def main():\n"
        "    await asyncio.gather(*map(ask, range(20)))\n"
        "loop = asyncio.new_event_loop()\n"
        "loop.run_until_complete(main())\n"  # the loop ends with calls that were not told of
    )
    url = f"sqlite:///{tmp_path / 'rwml.db'}"
    environment = {k: v for k, v in os.environ.items() if k != "PYTEST_CURRENT_TEST"}
    subprocess.run(
        [sys.executable, "-c", code, url, endpoint.url],
        check=True,
        timeout=120,
        env={**environment, "LITELLM_LOCAL_MODEL_COST_MAP": "True"},
    )
    with rwml.open_store(url, create=False) as store:
        assert sorted(int(t.initial[0].content or "") for t in store.trajectories()) == [*range(20)]
