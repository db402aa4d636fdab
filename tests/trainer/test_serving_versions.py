"""Versions under traffic: promoted, rolled back, crashed, recorded, and the end of the server."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("litellm")
pytest.importorskip("fastapi")
pytest.importorskip("prisma")

import httpx
from tests.trainer.served_stub import ask, reason, serving, text, traffic, until
from tests.trainer.stub_engine import MUTE, PIECES, text_of

from rwml import open_store
from rwml.schema import Trajectory
from rwml_trainer.serving import control
from rwml_trainer.serving.registry import Outcome, Registry
from rwml_trainer.serving.server import Served
from rwml_trainer.serving.versions import add_version
from rwml_trainer.testing import make_tiny_model

STREAMS = 50


class Server:
    """What is served, its registry, and what was said of it."""

    def __init__(self, served: Served, store: str, told: list[str]) -> None:
        self.served = served
        self.folder = served.key_file.parent
        self.registry = Registry(self.folder)
        self.store = store
        self.told = told

    def promote(self, version: str) -> Outcome:
        if self.registry.read().aliases["world"].current == version:
            raise AssertionError(f"{version} is current")
        return self._do(self.registry.order("promote", version).ticket)

    def rollback(self) -> Outcome:
        return self._do(self.registry.order("rollback", "world").ticket)

    def _do(self, ticket: str) -> Outcome:
        self.served.attend()
        outcome = self.registry.read().aliases["world"].outcome
        assert outcome is not None
        assert outcome.ticket == ticket
        return outcome

    def attend_until(self, condition: Callable[[], object]) -> None:
        """Goes round until something is so."""

        def is_so() -> object:
            self.served.attend()
            return condition()

        until(is_so)

    def in_flight(self, version: str) -> int:
        return self.served.gateway.control.count(version)

    def gate(self, version: str) -> Path:
        return self.work(version) / "gate"

    def work(self, version: str) -> Path:
        return self.folder / "engines" / version

    def recorded(self, thread: str) -> list[Trajectory]:
        with open_store(self.store, create=False) as store:
            return [t for t in store.trajectories() if t.metadata.get("thread_id") == thread]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """Folders of different models: one, two, and one that predicts nothing."""
    folder = tmp_path_factory.mktemp("models")
    shutil.copytree(tiny_model, folder / "one")
    make_tiny_model(folder / "two", seed=2)
    make_tiny_model(folder / MUTE, seed=3)
    return folder


@pytest.fixture(scope="module")
def server(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    out = tmp_path_factory.mktemp("versions")
    store = f"sqlite:///{out / 'traffic.db'}"
    told: list[str] = []
    with serving(models / "one", out, store=store, notify=told.append) as served:
        made = Server(served, store, told)
        add_version(made.registry, models / "two", name="world@2")
        add_version(made.registry, models / MUTE, name="world@3")
        yield made


def test_a_promotion_moves_the_name_and_drops_nothing(server: Server) -> None:
    served = server.served
    with ThreadPoolExecutor(1) as pool:
        with traffic(served) as seen:
            held = pool.submit(ask, served, "wait")
            until(lambda: server.in_flight("world@1") > 0)
            outcome = server.promote("world@2")
            after = text(ask(served))
        assert outcome.ok, outcome.message
        assert after == text_of("two")
        assert {answer.status_code for answer in seen} == {200}
        assert {text(answer) for answer in seen} == {text_of("one"), text_of("two")}
        served.attend()  # the old engine stays for the request that it has
        assert len(served.processes) == 3
        assert ask(served, model="world@1").status_code == 404
        server.gate("world@1").touch()
        assert text(held.result()) == text_of("one")
    until(lambda: server.in_flight("world@1") == 0)
    served.attend()
    assert len(served.processes) == 2
    alias = server.registry.read().aliases["world"]
    assert (alias.current, alias.former) == ("world@2", ("world@1",))


def test_a_rollback_goes_back(server: Server) -> None:
    assert server.rollback().ok
    assert text(ask(server.served)) == text_of("one")
    assert ask(server.served).json()["model"] == "world@1"
    server.served.attend()
    assert server.registry.read().aliases["world"].former == ()


def test_a_version_that_does_less_is_not_promoted(server: Server) -> None:
    before = server.served.processes
    outcome = server.promote("world@3")
    assert not outcome.ok
    assert outcome.found_wanting
    assert "world@3 predicts no next state in its tags, and world@1 does" in outcome.message
    assert text(ask(server.served)) == text_of("one")
    assert server.served.processes == before


def test_weights_that_changed_are_not_promoted(server: Server, models: Path) -> None:
    weights = models / "two" / "model.safetensors"
    kept = weights.read_bytes()
    try:
        shutil.copy(models / MUTE / "model.safetensors", weights)
        outcome = server.promote("world@2")
    finally:
        weights.write_bytes(kept)
    assert not outcome.ok
    assert "not those that were added" in outcome.message
    assert text(ask(server.served)) == text_of("one")


def test_a_crashed_engine_is_restarted_and_answered_for_meanwhile(server: Server) -> None:
    served = server.served
    crashed = served.processes[0]
    assert ask(served, "die").status_code in (502, 503)
    until(lambda: crashed.has_ended)
    answer = ask(served)
    assert (answer.status_code, reason(answer)) == (503, "engine_unavailable")
    server.attend_until(lambda: served.processes[0].pid != crashed.pid)
    assert text(ask(served)) == text_of("one")
    assert any("died (exit code 9" in line for line in server.told)


def test_a_crashed_engine_is_restarted_while_a_version_is_promoted(server: Server) -> None:
    served = server.served
    crashed = served.processes[0]
    server.work("world@2").mkdir(exist_ok=True)
    hold = server.work("world@2") / "hold"
    hold.touch()
    with ThreadPoolExecutor(1) as pool:
        promotion = pool.submit(server.promote, "world@2")
        try:
            until(lambda: server.told[-1] == "starting world@2")
            assert ask(served, "die").status_code in (502, 503)
            until(lambda: server.told[-1] == "world@1 is up again")
            until(lambda: ask(served).status_code == 200)
            assert text(ask(served)) == text_of("one")
            assert not promotion.done()
        finally:
            hold.unlink()
        assert promotion.result().ok
    assert text(ask(served)) == text_of("two")
    assert crashed.has_ended
    assert server.rollback().ok


def test_a_gateway_that_says_nothing_moves_no_name_and_ends_no_server(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    served, gateway = server.served, server.served.gateway.process
    server.attend_until(lambda: len(served.processes) == 2)  # one engine, and the gateway
    before = server.registry.read().aliases["world"]
    monkeypatch.setattr(control, "ANSWER_S", 0.5)
    os.kill(gateway.pid, signal.SIGSTOP)
    try:
        outcome = server.promote("world@2")
        served.attend()
    finally:
        os.kill(gateway.pid, signal.SIGCONT)
    assert not outcome.ok
    assert "world stays world@1: the gateway does not answer" in outcome.message
    after = server.registry.read().aliases["world"]
    assert (after.current, after.former) == (before.current, before.former)
    monkeypatch.undo()
    server.attend_until(lambda: len(served.processes) == 2)  # the new engine is not needed
    assert "the gateway answers again" in server.told
    assert text(ask(served)) == text_of("one")
    assert server.in_flight("world@1") == 0
    assert server.promote("world@2").ok
    assert text(ask(served)) == text_of("two")
    assert server.rollback().ok


def test_traffic_is_recorded_with_its_version_and_tenant(server: Server) -> None:
    headers = {"x-litellm-session-id": "a-thread"}
    assert text(ask(server.served, headers=headers))

    def steps() -> list[Any]:
        return [step for trajectory in server.recorded("a-thread") for step in trajectory.steps]

    until(steps)
    assert [step.model for step in steps()] == ["world@1"]
    (trajectory,) = server.recorded("a-thread")
    assert trajectory.metadata["tenant"] == "session"


def test_the_end_cuts_no_stream_off_and_records_all(server: Server) -> None:
    """The last test: the gateway is gone after it."""
    served, gateway = server.served, server.served.gateway.process
    version = server.registry.read().aliases["world"].current
    server.gate(version).unlink(missing_ok=True)
    with ThreadPoolExecutor(STREAMS) as pool:
        streams = [pool.submit(_stream, served, f"s{n}") for n in range(STREAMS)]
        until(lambda: server.in_flight(version) == STREAMS)
        os.kill(gateway.pid, signal.SIGTERM)
        until(lambda: ask(served).status_code == 503)
        assert reason(ask(served)) == "shutting_down"
        server.gate(version).touch()
        told = {stream.result() for stream in streams}
    gateway.wait(30)
    assert gateway.how_it_ended == "exit code 0"
    assert told == {"".join(f"{n} " for n in range(PIECES)) + text_of("one")}
    with open_store(server.store, create=False) as opened:
        threads = {str(t.metadata.get("thread_id")) for t in opened.trajectories()}
    assert {f"s{n}" for n in range(STREAMS)} <= threads


def _stream(served: Served, session: str) -> str:
    """The text of a whole stream; what is cut off has no end, and raises."""
    body = {
        "model": "world",
        "messages": [{"role": "user", "content": "wait"}],
        "stream": True,
    }
    headers = {"Authorization": f"Bearer {served.key}", "x-litellm-session-id": session}
    url = f"{served.endpoint}/chat/completions"
    with httpx.stream(
        "POST", url, headers=headers, json=body, trust_env=False, timeout=60
    ) as answer:
        lines = [line for line in answer.iter_lines() if line]
    assert lines[-1] == "data: [DONE]"
    chunks = [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]
    return "".join(
        choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"]
    )
