"""A candidate on a share of the traffic: real gateway, engines that fail when they are told to."""

from __future__ import annotations

import json
import shutil
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

pytest.importorskip("torch")
pytest.importorskip("litellm")
pytest.importorskip("fastapi")
pytest.importorskip("prisma")

from tests.trainer.served_stub import ask, serving, text, until
from tests.trainer.stub_engine import FRAIL, MUTE, text_of
from tests.trainer.test_serving_registry import version
from typer.testing import CliRunner

from rwml.cli.app import build_app
from rwml.errors import UsageError
from rwml_trainer.serving import candidates
from rwml_trainer.serving.candidates import Candidates
from rwml_trainer.serving.registry import Alias, Outcome, Registry
from rwml_trainer.serving.server import Served, _drop_unfinished
from rwml_trainer.serving.versions import add_version
from rwml_trainer.testing import make_tiny_model


class Server:
    """What is served, and what was said of it."""

    def __init__(self, served: Served, told: list[str]) -> None:
        self.served = served
        self.registry = Registry(served.key_file.parent)
        self.told = told

    @property
    def alias(self) -> Alias:
        return self.registry.read().aliases["world"]

    def order(self, kind: Any, wanted: str, share: float | None = None) -> Outcome:
        order = self.registry.order(kind, wanted, share=share)
        self.served.attend()
        outcome = self.alias.outcome
        assert outcome is not None
        assert outcome.ticket == order.ticket
        return outcome

    def ask(self, session: str, content: str = "hi") -> Any:
        return ask(self.served, content, headers={"x-litellm-session-id": session})

    def model(self, session: str) -> str:
        """The version that a conversation has."""
        answer = self.ask(session)
        assert answer.status_code == 200, answer.text
        return answer.json()["model"]

    def listed(self, *options: str) -> str:
        folder = str(self.registry.folder)
        result = CliRunner().invoke(build_app(), ["serve", "list", "--serving", folder, *options])
        assert result.exit_code == 0, result.output
        return result.stdout


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Iterator[Server]:
    """Serves world@1; world@2 is as good, world@3 predicts nothing, world@4 is frail."""
    models, out = tmp_path_factory.mktemp("models"), tmp_path_factory.mktemp("canary")
    shutil.copytree(tiny_model, models / "one")
    told: list[str] = []
    with (
        pytest.MonkeyPatch.context() as patched,
        serving(models / "one", out, notify=told.append) as served,
    ):
        patched.setattr(candidates, "TRAFFIC_EVERY_S", 0.0)
        made = Server(served, told)
        for step, name in enumerate(("two", MUTE, FRAIL), start=2):
            make_tiny_model(models / name, seed=step)
            add_version(made.registry, models / name, name=f"world@{step}")
        yield made


def test_a_share_of_the_conversations_goes_to_the_candidate(server: Server) -> None:
    before = {session: server.model(session) for session in ("old-1", "old-2")}
    stop = threading.Event()

    def traffic() -> list[int]:
        seen: list[int] = []
        while not stop.is_set():
            seen.append(server.ask(f"t{len(seen)}").status_code)
        return seen

    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(traffic)
        assert server.order("canary", "world@2", 0.5).ok
        models = {f"s{n}": server.model(f"s{n}") for n in range(20)}
        again = {session: server.model(session) for session in models}
        stop.set()
        assert set(running.result()) == {200}
    assert again == models
    assert set(models.values()) == {"world@1", "world@2"}
    assert {session: server.model(session) for session in before} == before
    assert set(before.values()) == {"world@1"}
    assert text(ask(server.served, model="world@2")) == text_of("two")


def test_the_list_tells_the_traffic_of_both(server: Server) -> None:
    server.served.attend()
    told = json.loads(server.listed("--json"))
    tried = told["aliases"]["world"]["candidate"]
    assert (told["aliases"]["world"]["current"], tried["version"]) == ("world@1", "world@2")
    assert tried["share"] == 0.5
    sides = tried["conversations"]
    assert all(sides[side]["begun"] > 0 for side in ("current", "candidate"))
    assert sides["candidate"]["failure_rate"] == 0
    assert tried["evidence"] == 1
    traffic = {version["id"]: version["traffic"] for version in told["versions"]}
    assert traffic["world@2"]["requests"] >= sides["candidate"]["begun"]
    assert traffic["world@2"]["error_ci95"][1] > traffic["world@2"]["error_rate"] == 0
    assert 0 < traffic["world@1"]["p50_s"] <= traffic["world@1"]["p99_s"]
    assert traffic["world@3"] is None
    shown = server.listed()
    assert "world@2 is tried on 50% of the conversations with world since" in shown
    begun, failed = sides["candidate"]["begun"], "0 (0.0%) failed (0.0% to "
    assert f"world@2: {begun} conversations, {failed}" in shown


def test_nothing_else_is_tried_or_promoted_meanwhile(server: Server) -> None:
    with pytest.raises(UsageError, match=r"world@2 is tried .* 'rwml serve rollback world'"):
        server.registry.order("canary", "world@4", share=0.1)
    with pytest.raises(UsageError, match="world@2 is tried"):
        server.registry.order("promote", "world@4")


def test_a_rollback_ends_it_and_drops_nothing(server: Server) -> None:
    session = next(f"s{n}" for n in range(20) if server.model(f"s{n}") == "world@2")
    with ThreadPoolExecutor(1) as pool:
        held = pool.submit(server.ask, session, "wait")
        until(lambda: server.served.gateway.control.count("world@2") > 0)
        assert server.order("rollback", "world").ok
        assert server.model(session) == "world@1"
        (server.registry.folder / "engines" / "world@2" / "gate").touch()
        assert held.result().json()["model"] == "world@2"
    until(lambda: server.served.gateway.control.count("world@2") == 0)
    server.served.attend()
    assert len(server.served.processes) == 2
    ended = server.alias.trial
    assert server.alias.candidate is None
    assert ended is not None
    assert (ended.how, ended.candidate.version) == ("ended", "world@2")
    assert ended.trial is not None
    assert ended.trial.candidate.conversations > 0


def test_a_candidate_that_does_less_is_not_tried(server: Server) -> None:
    outcome = server.order("canary", "world@3", 0.5)
    assert outcome.found_wanting
    assert "predicts no next state" in outcome.message
    assert server.alias.candidate is None


def test_a_candidate_that_fails_more_often_is_taken_back(server: Server) -> None:
    assert server.order("canary", "world@4", 0.4).ok
    seen: Counter[int] = Counter()
    for n in range(200):
        seen[server.ask(f"hard-{n}", "hard").status_code] += 1
        server.served.attend()
        if server.alias.candidate is None:
            break
    ended = server.alias.trial
    assert ended is not None
    assert (ended.how, ended.candidate.version) == ("failing", "world@4")
    assert ended.trial is not None
    assert ended.trial.candidate.failed == seen[502] < 10
    assert ended.trial.current.failed == 0
    assert any("world@4 is not tried any more: it is shown to fail" in line for line in server.told)
    assert {server.ask(f"hard-{n}", "hard").status_code for n in range(20)} == {200}
    assert server.alias.current == "world@1"
    assert "world@4 was tried until" in server.listed()
    assert json.loads(server.listed("--json"))["aliases"]["world"]["last_trial"]["how"] == "failing"


def test_a_candidate_that_crashes_is_taken_back(server: Server) -> None:
    assert server.order("canary", "world@2", 0.5).ok
    session = next(f"c{n}" for n in range(50) if server.model(f"c{n}") == "world@2")
    crashed = server.served.processes[-2]
    server.ask(session, "die")
    until(lambda: crashed.has_ended)
    server.served.attend()
    ended = server.alias.trial
    assert ended is not None
    assert (ended.how, server.alias.candidate) == ("crashed", None)
    assert server.model(session) == "world@1"
    assert len(server.served.processes) == 2


def test_a_candidate_is_promoted(server: Server) -> None:
    assert server.order("canary", "world@2", 0.5).ok
    assert server.order("promote", "world@2").ok
    assert {server.model(f"p{n}") for n in range(6)} == {"world@2"}
    alias = server.alias
    assert (alias.current, alias.former, alias.candidate) == ("world@2", ("world@1",), None)
    assert alias.trial is not None
    assert alias.trial.how == "promoted"


def test_an_end_that_cannot_be_written_is_written_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = Registry(tmp_path)
    told: list[str] = []
    for step in (1, 2):
        registry.add(version(step))
    registry.move(version(1))
    candidates = Candidates(registry, notify=told.append)
    candidates.begin("world", registry.order("canary", "world@2", share=0.5))
    registry.settle("world", outcome("world@2"))
    with monkeypatch.context() as patched:
        patched.setattr(Registry, "end_trial", mock.Mock(side_effect=OSError("no space")))
        candidates.end("world", "failing", "it fails", None)
        candidates.write_ends()
    assert [line for line in told if "not noted yet: no space" in line] == told != []
    assert registry.read().aliases["world"].candidate is not None
    candidates.write_ends()
    alias = registry.read().aliases["world"]
    assert (alias.candidate, alias.trial and alias.trial.why) == (None, "it fails")
    candidates.begin("world", registry.order("canary", "world@2", share=0.25))
    candidates.write_ends()
    assert registry.read().aliases["world"].candidate is not None, "a new trial is not ended"


def outcome(wanted: str) -> Outcome:
    now = datetime.now(UTC)
    return Outcome(ticket="t", version=wanted, ok=True, message="done", at=now)


@pytest.mark.parametrize("share", ["0", "100%", "-5%", "x"])
def test_a_share_is_a_part(tmp_path: Path, share: str) -> None:
    words = ["serve", "promote", "world@2", "--canary", share, "--serving", str(tmp_path)]
    result = CliRunner().invoke(build_app(), words)
    assert isinstance(result.exception, UsageError)
    assert "--canary is a" in str(result.exception)


def test_a_trial_ends_with_its_server(server: Server, tmp_path: Path) -> None:
    """The last test: the registry is left as by a server that was killed."""
    assert server.order("canary", "world@4", 0.5).ok
    copy = tmp_path / "serving"
    copy.mkdir()
    shutil.copy(server.registry.path, copy)
    listed = CliRunner().invoke(build_app(), ["serve", "list", "--serving", str(copy)]).stdout
    told = " ".join(listed.split())
    assert "world@4 was tried on 50% of the conversations with world since" in told
    assert "until the server ended" in told
    assert "50% of world " not in told
    _drop_unfinished(Registry(copy))
    alias = Registry(copy).read().aliases["world"]
    assert alias.candidate is None
    assert alias.trial is not None
    assert (alias.trial.how, alias.trial.why) == ("ended", "the server ended")
