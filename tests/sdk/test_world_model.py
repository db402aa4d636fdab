"""`rwml.WorldModel` against a scripted endpoint: what it says, and every way in which it cannot."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

import rwml
from rwml.encoders import HttpEncoder
from rwml.errors import (
    ModelError,
    RewardError,
    SchemaError,
    UsageError,
    WorldModelError,
    WorldModelUnavailableError,
)
from rwml.prompts import PromptSettings, format_label
from rwml.schema import Message
from rwml.testing import (
    BagOfWordsEncoder,
    OpenAIServer,
    TrajectoryBuilder,
    make_trajectory,
    recorded,
)
from rwml.workers import Workers
from rwml.world_model import Prediction
from rwml.world_model.cache import PredictionCache
from rwml.world_model.endpoint import ATTEMPTS

pytest.importorskip("openai")

THOUGHT = "It looks an order up."
SAID = "Error: order not found"
ANSWER = f"<think>{THOUGHT}</think><next_state>{SAID}</next_state>"


@pytest.fixture
def server() -> Iterator[OpenAIServer]:
    with OpenAIServer(answer=lambda body: ANSWER) as running:
        yield running


@pytest.fixture
def world(server: OpenAIServer) -> Iterator[rwml.WorldModel]:
    with rwml.WorldModel(server.url, model="w", encoder=BagOfWordsEncoder()) as made:
        yield made


def asking(answer: str) -> Any:
    return OpenAIServer(answer=lambda body: answer)


def last_text(body: Mapping[str, Any]) -> str:
    return str(body["messages"][-1]["content"])


def test_a_prediction_is_what_stands_in_the_tags(
    server: OpenAIServer, world: rwml.WorldModel
) -> None:
    trajectory = make_trajectory(1)
    found = world.predict(trajectory, {"role": "assistant", "content": "Shall I?"})
    assert found == Prediction(SAID, THOUGHT, ANSWER)
    (asked,) = server.requests
    assert (asked["model"], asked["temperature"], asked["max_tokens"]) == ("w", 0.0, 1_024)
    assert "Authorization" not in server.headers[0]
    assert "Shall I?" in last_text(asked)


def test_the_prompt_is_that_of_the_transition(server: OpenAIServer, world: rwml.WorldModel) -> None:
    trajectory = make_trajectory(3)
    world.surprise_many(trajectory.transitions(history=world.history))
    for place, step in enumerate(trajectory.steps):
        before = trajectory.model_copy(update={"steps": trajectory.steps[:place]})
        world.predict(before, step.action)
        waiting = step.model_copy(update={"status": "pending", "observation": (), "kind": None})
        still = trajectory.model_copy(update={"steps": (*trajectory.steps[:place], waiting)})
        world.predict(still, step.action.to_openai())
    assert len(server.requests) == len(trajectory.steps), "asked again, so the prompt was another"


def test_who_answers_follows_from_what_came_before(server: OpenAIServer) -> None:
    with rwml.WorldModel(server.url, model="w") as world:
        game = TrajectoryBuilder().environment("A door.").says("open").environment("Open.").build()
        talk = TrajectoryBuilder().user("Hi.").says("Hello?").user("Yes.").build()
        action = Message(role="assistant", content="look")
        world.predict(game, action)
        world.predict(talk, action)
        world.predict(talk, action, kind="environment")
    agent, environment = (last_text(server.requests[place]) for place in (1, 0))
    assert "Potential assistant response" in agent
    assert "Potential assistant response" not in environment
    assert "Potential assistant response" not in last_text(server.requests[2])


def test_surprise_is_the_gap_to_what_came_back(world: rwml.WorldModel) -> None:
    transitions = list(make_trajectory(1).transitions(history=world.history))
    surprises = world.surprise_many(transitions)
    assert surprises == [world.surprise(each) for each in transitions]
    failed = "Error: order 1-1 not found"
    assert surprises[1] == pytest.approx(world.gap(SAID, failed))
    assert surprises[1] == min(surprise for surprise in surprises if surprise is not None)
    assert world.gap("the same words", "the same words") == pytest.approx(0, abs=1e-6)
    masked = (Message(role="tool", content='{"a": 1}', tool_call_id="c"),)
    schema = '{"type":"object","properties":{"a":{"type":"integer"}}}'
    assert world.gap(schema, masked) == pytest.approx(0, abs=1e-6)


def test_every_method_has_a_twin_that_waits(world: rwml.WorldModel) -> None:
    trajectory = make_trajectory(2)
    transitions = list(trajectory.transitions(history=world.history))
    action = trajectory.steps[-1].action

    async def ask() -> list[Any]:
        prediction = await world.apredict(trajectory, action)
        return [
            prediction,
            await world.apredict_many([(trajectory, action)] * 2),
            await world.agap(prediction, "Error"),
            await world.asurprise(transitions[0]),
            await world.asurprise_many(transitions),
        ]

    expected = world.predict(trajectory, action)
    for _ in range(2):  # each in an event loop of its own
        assert asyncio.run(ask()) == [
            expected,
            world.predict_many([(trajectory, action)] * 2),
            world.gap(expected, "Error"),
            world.surprise(transitions[0]),
            world.surprise_many(transitions),
        ]


@pytest.mark.parametrize(
    ("answer", "problem"),
    [("It will fail.", "format"), ("<next_state></next_state>", "format"), ("", "format")],
)
def test_an_answer_without_tags_has_no_surprise_and_never_0(answer: str, problem: str) -> None:
    with (
        asking(answer) as server,
        rwml.WorldModel(server.url, model="w", encoder=BagOfWordsEncoder()) as world,
    ):
        (transition, *_) = make_trajectory(1).transitions(history=world.history)
        (scored,) = world.score_many([transition])
        assert (scored.surprise, scored.missing) == (None, problem)
        assert scored.prediction == Prediction(None, "", answer, "format")
        assert world.gap(scored.prediction, "anything") is None


def test_an_answer_that_was_cut_off_says_so() -> None:
    class Cutting(OpenAIServer):
        def reply(self, path: str, body: dict[str, Any], headers: dict[str, str]) -> Any:
            status, answer = super().reply(path, body, headers)
            return status, answer.replace(b'"finish_reason": "stop"', b'"finish_reason": "length"')

    for answer, problem in (("<think>very long", "cut"), (ANSWER, None)):
        with (
            Cutting(answer=lambda body, a=answer: a) as server,
            rwml.WorldModel(server.url, model="w") as world,
        ):
            found = world.predict(make_trajectory(1), {"role": "assistant", "content": "?"})
            assert found.problem == problem


def test_reasoning_that_an_engine_took_out_is_kept() -> None:
    class Reasoning(OpenAIServer):
        def reply(self, path: str, body: dict[str, Any], headers: dict[str, str]) -> Any:
            status, answer = super().reply(path, body, headers)
            told = json.loads(answer)
            told["choices"][0]["message"]["reasoning_content"] = THOUGHT
            return status, json.dumps(told).encode()

    with (
        Reasoning(answer=lambda body: format_label(SAID)) as server,
        rwml.WorldModel(server.url, model="w") as world,
    ):
        found = world.predict(make_trajectory(1), {"role": "assistant", "content": "?"})
    assert (found.text, found.reasoning) == (SAID, THOUGHT)


def test_nothing_came_back_is_nothing_to_be_surprised_by(world: rwml.WorldModel) -> None:
    trajectory = TrajectoryBuilder().user("Hi").says("Yes?").user(" ").build()
    (scored,) = world.score_many(trajectory.transitions(history=world.history))
    assert (scored.surprise, scored.missing) == (None, "empty")


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_refused_key_or_model_is_told(status: int) -> None:
    with (
        OpenAIServer(failures=[status]) as server,
        rwml.WorldModel(server.url, model="w", api_key="sk-wrong") as world,
    ):
        what = "the key" if status < 404 else "the request"
        with pytest.raises(WorldModelError, match=f"refused {what}: status {status}") as caught:
            world.predict(make_trajectory(1), {"role": "assistant", "content": "?"})
        assert not isinstance(caught.value, WorldModelUnavailableError)
        assert caught.value.exit_code == 2
        assert "sk-wrong" not in str(caught.value)
        assert server.headers[0]["Authorization"] == "Bearer sk-wrong"
        assert len(server.requests) == 1


def test_one_prompt_that_is_refused_leaves_the_others(world: rwml.WorldModel) -> None:
    with (
        OpenAIServer(answer=lambda body: ANSWER, failures=[400]) as server,
        rwml.WorldModel(server.url, model="w", encoder=BagOfWordsEncoder(), concurrency=1) as other,
    ):
        found = other.score_many(make_trajectory(1).transitions(history=other.history))
        assert [scored.missing for scored in found] == ["refused", None, None, None]
        assert "status 400" in found[0].prediction.detail
        assert found[0].prediction.status == 400
        again = other.score_many(make_trajectory(1).transitions(history=other.history))
        assert [scored.missing for scored in again] == [None] * 4, "a refusal is not kept"
        assert len(server.requests) == 5


@pytest.mark.parametrize(
    "error",
    [
        {"message": "The model `w` does not exist", "code": "model_not_found", "param": None},
        {"message": "no such value", "param": "model"},
        {
            "message": "{'error': '/chat/completions: Invalid model name passed in model=w. Call "
            "`/v1/models` to view available models for your key.'}",
            "type": "None",
            "param": "None",
            "code": "400",
        },
    ],
)
def test_a_400_about_the_model_is_not_taken_for_one_about_the_prompt(error: Any) -> None:
    class NoSuchModel(OpenAIServer):
        def reply(self, path: str, body: dict[str, Any], headers: dict[str, str]) -> Any:
            return 400, json.dumps({"error": error}).encode()

    with (
        NoSuchModel() as server,
        rwml.WorldModel(server.url, model="w") as world,
        pytest.raises(WorldModelError, match="refused the model: status 400"),
    ):
        world.predict(make_trajectory(1), {"role": "assistant", "content": "?"})


def test_a_busy_endpoint_is_asked_again_and_an_away_one_is_told() -> None:
    action = {"role": "assistant", "content": "?"}
    with OpenAIServer(answer=lambda body: ANSWER, failures=[500]) as server:
        with rwml.WorldModel(server.url, model="w", attempts=2) as world:
            assert world.predict(make_trajectory(1), action).text == SAID
            assert len(server.requests) == 2
        url = server.url
    with rwml.WorldModel(url, model="w", attempts=1) as world:
        with pytest.raises(WorldModelUnavailableError, match="did not answer") as caught:
            world.predict(make_trajectory(1), action)
        assert caught.value.exit_code == 3
    assert ATTEMPTS > 1


@pytest.mark.parametrize("page", [b"<html>hello</html>", b'{"object": "list", "data": []}'])
def test_what_is_no_chat_endpoint_is_told(page: bytes) -> None:
    class Page(OpenAIServer):
        def reply(self, path: str, body: dict[str, Any], headers: dict[str, str]) -> Any:
            return 200, page

    with (
        Page() as server,
        rwml.WorldModel(server.url, model="w") as world,
        pytest.raises(WorldModelError, match="no chat completions: check the URL"),
    ):
        world.predict(make_trajectory(1), {"role": "assistant", "content": "?"})


def test_wrong_arguments_are_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="name the model"):
        rwml.WorldModel("http://127.0.0.1:1/v1")
    with pytest.raises(UsageError, match="looks like"):
        rwml.WorldModel("http://", model="w")
    for wrong in (
        {"concurrency": 0},
        {"attempts": 0},
        {"timeout_s": 0},
        {"cached": -1},
        {"cached_s": 0},
        {"max_tokens": 0},
    ):
        with pytest.raises(UsageError, match="more than 0"):
            rwml.WorldModel("http://127.0.0.1:1/v1", model="w", **wrong)  # type: ignore[arg-type]
    with pytest.raises(ModelError, match="no finished run"):
        rwml.WorldModel("http://127.0.0.1:1/v1", run=tmp_path)
    (tmp_path / "run.json").write_text('{"name": "old", "base_model": "m"}')
    with pytest.raises(ModelError, match="does not say how its prompts were made"):
        rwml.WorldModel("http://127.0.0.1:1/v1", run=tmp_path)
    (tmp_path / "run.json").write_text("[1]")
    with pytest.raises(ModelError, match="no run manifest"):
        rwml.WorldModel("http://127.0.0.1:1/v1", run=tmp_path)


@pytest.mark.parametrize(
    ("given", "more"),
    [
        ("localhost:4000/v1", {"model": "retail"}),
        ("gateway", {"model": "retail"}),
        ("127.0.0.1:4000/v1", {}),
        ("gateway.internal/v1/", {}),
        ("htp://gateway", {}),
        ("", {"model": "retail"}),
    ],
)
def test_an_address_without_http_is_told_and_nothing_goes_to_openai(
    given: str, more: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-mine")
    with OpenAIServer(answer=lambda body: ANSWER) as openai:
        monkeypatch.setenv("OPENAI_BASE_URL", openai.url)
        with pytest.raises(UsageError, match="an endpoint looks like http://"):
            rwml.WorldModel(given, **more)  # type: ignore[arg-type]
        for name in ("retail", "meta-llama/Llama-3:8b", "ft:gpt-4o:acme::7"):
            with rwml.WorldModel(name, model=name) as world:
                assert world.name == name
        assert openai.requests == []


def test_a_model_without_an_url_or_a_key_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "OPENAI_ADMIN_KEY"):
        monkeypatch.delenv(name, raising=False)
    action = {"role": "assistant", "content": "?"}
    with rwml.WorldModel("w") as world, pytest.raises(WorldModelError, match="wants a key"):
        world.predict(make_trajectory(1), action)
    with OpenAIServer(answer=lambda body: ANSWER) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        with rwml.WorldModel("w", api_key="sk-mine") as world:
            assert world.predict(make_trajectory(1), action).text == SAID
        assert server.headers[0]["Authorization"] == "Bearer sk-mine"


@pytest.mark.parametrize("api_key", [None, "sk-mine"])
@pytest.mark.parametrize("name", ["Authorization", "authorization"])
def test_no_endpoint_is_sent_the_headers_of_the_environment(
    name: str, api_key: str | None, monkeypatch: pytest.MonkeyPatch, server: OpenAIServer
) -> None:
    headers = f"{name}: Bearer sk-company\nX-Company : secret\nnothing"
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", headers)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-openai")
    action = {"role": "assistant", "content": "?"}
    with rwml.WorldModel(server.url, model="w", api_key=api_key) as world:
        world.predict(make_trajectory(1), action)
        world.submit(make_trajectory(1), action, timeout_s=60).result(60)
    HttpEncoder(server.url, model="e").encode(["a"])
    *asked, embedded = [{key.lower(): value for key, value in h.items()} for h in server.headers]
    assert len(asked) == 2
    for each in asked:
        assert each.get("authorization") == (api_key and f"Bearer {api_key}")
    assert "authorization" not in embedded
    assert "secret" not in str(server.headers)


def test_what_is_missing_is_told_when_it_is_needed(server: OpenAIServer) -> None:
    action = {"role": "assistant", "content": "?"}
    with rwml.WorldModel(server.url, model="w") as world:
        assert world.predict(make_trajectory(1), action).text == SAID
        with pytest.raises(RewardError, match="pass encoder, or run"):
            world.gap("a", "b")
        with pytest.raises(SchemaError):
            world.predict(make_trajectory(1), {"role": "nobody"})
    with pytest.raises(UsageError, match="was closed"):
        world.predict(make_trajectory(1), action)
    compact = PromptSettings(profile="compact")
    with (
        rwml.WorldModel(server.url, model="w", prompts=compact) as world,
        pytest.raises(UsageError, match="tokenizer=FOLDER"),
    ):
        world.predict(make_trajectory(1), action)


def test_equal_questions_are_asked_once_whoever_asks(server: OpenAIServer) -> None:
    gate, trajectory = threading.Event(), make_trajectory(1)
    action = trajectory.steps[0].action

    def answer(body: Mapping[str, Any]) -> str:
        assert gate.wait(30)
        return ANSWER

    with OpenAIServer(answer=answer) as slow, rwml.WorldModel(slow.url, model="w") as world:
        asked = [world.submit(trajectory, action) for _ in range(4)]
        assert not any(future.done() for future in asked)
        gate.set()
        assert {future.result(30).text for future in asked} == {SAID}
        assert len(slow.requests) == 1
    with rwml.WorldModel(server.url, model="w", cached=1) as world:
        for step in trajectory.steps[:2] * 2:
            world.predict(trajectory, step.action)
        assert len(server.requests) == 4, "the cache has a bound"
    with rwml.WorldModel(server.url, model="w", cached=0) as world:
        for _ in range(2):
            world.predict(trajectory, action)
    assert len(server.requests) == 6


def test_a_failure_is_not_kept() -> None:
    cache = PredictionCache(2, kept_s=60)
    prediction = Prediction("a")

    def fail() -> Prediction:
        raise WorldModelError("no")

    with pytest.raises(WorldModelError):
        cache.get(b"1", fail)
    assert cache.get(b"1", lambda: prediction) is prediction
    for key in (b"2", b"1", b"3"):  # the first was used again, so the second goes
        cache.get(key, lambda: prediction)
    assert len(cache) == 2
    assert cache.get(b"1", fail) is prediction
    with pytest.raises(WorldModelError):
        cache.get(b"2", fail)


def test_a_prediction_is_kept_for_a_time() -> None:
    now, made = 0.0, 0

    def make() -> Prediction:
        nonlocal made
        made += 1
        return Prediction(str(made))

    cache = PredictionCache(2, kept_s=60, clock=lambda: now)
    assert cache.get(b"1", make).text == "1"
    now = 50.0
    assert cache.get(b"1", make).text == "1"
    now = 61.0
    assert cache.get(b"1", make).text == "2", "being asked for does not keep it longer"
    now = 120.0
    assert cache.get(b"1", make).text == "2"
    assert len(cache) == 1


def test_no_more_requests_at_once_than_wanted() -> None:
    lock, now, most = threading.Lock(), 0, 0
    together = threading.Barrier(3)

    def answer(body: Mapping[str, Any]) -> str:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        together.wait(30)
        with lock:
            now -= 1
        return ANSWER

    trajectories = [make_trajectory(task) for task in range(6)]
    with (
        OpenAIServer(answer=answer) as server,
        rwml.WorldModel(server.url, model="w", concurrency=3) as world,
    ):
        world.predict_many((each, each.steps[0].action) for each in trajectories)
    assert most == 3


UNANSWERED = """
import sys, rwml
from rwml.testing import make_trajectory
world = rwml.WorldModel(sys.argv[1], model="w", concurrency=1)
trajectory = make_trajectory(1)
asked = [world.submit(trajectory, step.action) for step in trajectory.steps]
sys.stdin.readline()
print([future.done() for future in asked])
"""


def test_an_endpoint_that_hangs_does_not_keep_a_process_from_ending() -> None:
    asked, ended = threading.Event(), threading.Event()

    def never(body: Mapping[str, Any]) -> str:
        asked.set()
        ended.wait(90)
        return ANSWER

    with OpenAIServer(answer=never) as server:
        command = [sys.executable, "-c", UNANSWERED, server.url]
        child = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        try:
            assert asked.wait(60)
            said, errors = child.communicate(b"\n", timeout=30)
        finally:
            ended.set()
            child.kill()
            child.wait(30)
    assert said.split() == b"[False, False, False, False]".split()
    assert (errors, child.returncode) == (b"", 0)


def test_who_does_not_wait_long_asks_once(server: OpenAIServer) -> None:
    trajectory = make_trajectory(1)
    action = trajectory.steps[0].action
    with (
        OpenAIServer(answer=lambda body: ANSWER, failures=[500]) as busy,
        rwml.WorldModel(busy.url, model="w") as world,
    ):
        with pytest.raises(WorldModelUnavailableError, match="did not answer 1 attempt: status"):
            world.submit(trajectory, action, timeout_s=7.5).result(60)
        assert world.predict(trajectory, action).text == SAID
        waits = [float(headers["x-stainless-read-timeout"]) for headers in busy.headers]
    assert waits == [7.5, 120.0]


def test_workers_that_nobody_uses_end() -> None:
    workers = Workers(2, name="a-name")
    assert [workers.submit(divmod, 7, n).result(30) for n in (2, 3)] == [(3, 1), (2, 1)]
    with pytest.raises(ZeroDivisionError):
        workers.submit(divmod, 1, 0).result(30)
    threads = [thread for thread in threading.enumerate() if thread.name.startswith("a-name")]
    assert len(threads) == 2
    del workers
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()


def test_questions_are_not_recorded_as_traffic(server: OpenAIServer, tmp_path: Path) -> None:
    with rwml.instrument(store=f"sqlite:///{tmp_path / 'rwml.db'}") as recording:
        with rwml.WorldModel(server.url, model="w") as world:
            world.predict(make_trajectory(1), {"role": "assistant", "content": "?"})
        assert recorded(recording) == []


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="needs fork")
def test_it_works_after_a_fork(world: rwml.WorldModel) -> None:
    trajectory = make_trajectory(1)
    world.predict(trajectory, trajectory.steps[0].action)
    receiver, sender = multiprocessing.Pipe()
    context = multiprocessing.get_context("fork")

    def ask() -> None:
        sender.send(world.predict(trajectory, trajectory.steps[1].action).text)

    child = context.Process(target=ask)
    child.start()
    assert receiver.poll(60)
    assert receiver.recv() == SAID
    child.join(60)
    assert child.exitcode == 0
