"""What the fleet does with orders: the real registry, and engines that are stood for."""

from __future__ import annotations

from concurrent.futures import Future
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.trainer.test_serving_registry import NOW, version

from rwml.errors import ServingError
from rwml_trainer.serving.control import GatewaySilentError
from rwml_trainer.serving.fleet import Fleet, Running
from rwml_trainer.serving.registry import Order, Registry, Version
from rwml_trainer.serving.trials import Candidate, Ended


class Engine:
    """Stands for an engine."""

    name, url, model = "stub", "http://127.0.0.1:1/v1", "m"

    def __init__(self) -> None:
        self.is_stopped = False
        self.process = SimpleNamespace(stop=self.stop)

    def stop(self, grace_s: float) -> None:
        self.is_stopped = True


def fleet_of(registry: Registry, current: int) -> tuple[Any, Engine]:
    """A fleet that serves one version."""
    fleet: Any = Fleet(registry, notify=lambda line: None, start_timeout_s=1)
    engine: Any = Engine()
    known = version(current)
    fleet._running[known.id] = Running(known, engine)
    fleet._aliases["world"] = known.id
    return fleet, engine


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    made = Registry(tmp_path / "serving")
    for step in (1, 2):
        made.add(version(step))
    made.move(version(1))
    return made


def test_a_name_that_is_there_already_stays(registry: Registry) -> None:
    fleet, engine = fleet_of(registry, 2)  # the registry says 1, as before this server's start
    order = registry.order("promote", "world@2")
    fleet._carry_out("world", order)
    alias = registry.read().aliases["world"]
    assert (alias.current, alias.order) == ("world@2", None)
    assert alias.outcome is not None
    assert (alias.outcome.ok, alias.outcome.message) == (True, "world is world@2 already")
    assert fleet._running["world@2"].state == "ready"
    assert not engine.is_stopped


def test_a_machine_that_cannot_start_an_engine_goes_on_as_it_was(registry: Registry) -> None:
    fleet, engine = fleet_of(registry, 1)

    def fails(_: object) -> None:
        raise OSError("no memory")

    fleet._starter.launch = fails
    fleet._carry_out("world", registry.order("promote", "world@2"))
    alias = registry.read().aliases["world"]
    assert alias.current == fleet._aliases["world"] == "world@1"
    assert alias.outcome is not None
    assert (alias.outcome.ok, alias.outcome.message) == (False, "no memory")
    assert not engine.is_stopped


def test_a_registry_that_cannot_be_written_moves_nothing(registry: Registry) -> None:
    fleet, _ = fleet_of(registry, 1)
    new: Any = Engine()
    fleet._start_and_check = lambda wanted: Running(wanted, new)

    def fails(*_: object) -> None:
        raise OSError("no space")

    fleet._registry.move = fails
    order = Order(ticket="t", kind="promote", version="world@2", asked_at=NOW)
    with pytest.raises(OSError, match="no space"):
        fleet._swap("world", order)
    assert fleet._aliases["world"] == "world@1"
    assert fleet._running.keys() == {"world@1"}
    assert fleet._running["world@1"].state == "ready"
    assert new.is_stopped


def test_a_share_that_the_gateway_never_heard_of_is_taken_back(registry: Registry) -> None:
    fleet, _ = fleet_of(registry, 1)
    new: Any = Engine()
    fleet._start_and_check = lambda wanted: Running(wanted, new)

    def is_silent() -> None:
        raise GatewaySilentError("the gateway does not answer")

    fleet._publish = is_silent
    fleet._carry_out("world", registry.order("canary", "world@2", share=0.1))
    alias = registry.read().aliases["world"]
    assert alias.outcome is not None
    assert (alias.outcome.ok, alias.candidate, alias.current) == (False, None, "world@1")
    assert "is not tried: the gateway does not answer" in alias.outcome.message
    assert not fleet._candidates.tried
    assert fleet._running["world@2"].state == "leaving", "it may hear of it yet"


class Starter:
    """Stands where engines are started: none of them ever comes up."""

    def __init__(self) -> None:
        self.restarts: list[bool] = []

    def restart(self, wanted: Version, *, is_elsewhere: bool) -> Future[Any]:
        self.restarts.append(is_elsewhere)
        self.pending: Future[Any] = Future()
        return self.pending

    def give_up(self, restart: Future[Any]) -> None:
        if not restart.done():
            restart.set_exception(ServingError("there is no engine at"))


def crashed(fleet: Any, engine: Any, tmp_path: Path, *, is_elsewhere: bool) -> Starter:
    """The engine of world@1 is away, and its restart under way."""
    log = tmp_path / "engine.log"
    log.touch()
    engine.is_elsewhere = is_elsewhere
    engine.process.has_ended, engine.process.how_it_ended = True, "exit code 1"
    engine.process.log = log
    fleet._starter = Starter()
    fleet._look_after()
    return fleet._starter


@pytest.mark.parametrize("is_elsewhere", [False, True])
def test_who_starts_an_engine_decides_how_long_it_is_tried(
    registry: Registry, tmp_path: Path, is_elsewhere: bool
) -> None:
    fleet, engine = fleet_of(registry, 1)
    starter = crashed(fleet, engine, tmp_path, is_elsewhere=is_elsewhere)
    fleet._look_after()
    assert starter.restarts == [is_elsewhere]
    assert not starter.pending.done()


def test_an_order_does_not_wait_for_an_engine_of_somebody_else(
    registry: Registry, tmp_path: Path
) -> None:
    fleet, engine = fleet_of(registry, 1)
    crashed(fleet, engine, tmp_path, is_elsewhere=True)
    other: Any = Engine()
    other.process.has_ended = False
    fleet._running["world@2"] = Running(version(2), other)
    fleet._aliases["world"] = "world@2"
    del fleet._running["world@1"]  # its name has moved on meanwhile
    registry.move(version(2))
    fleet._carry_out("world", registry.order("rollback", "world"))
    outcome = registry.read().aliases["world"].outcome
    assert outcome is not None
    assert (outcome.ok, outcome.message) == (False, "there is no engine at")


def test_a_restart_that_nobody_wants_any_more_is_given_up(
    registry: Registry, tmp_path: Path
) -> None:
    fleet, engine = fleet_of(registry, 1)
    starter = crashed(fleet, engine, tmp_path, is_elsewhere=True)
    del fleet._running["world@1"]
    fleet._look_after()
    assert starter.pending.done()
    assert not fleet._restarts


TRIED = Candidate(version="world@2", share=0.05, trial="t", since=NOW)


def test_the_end_of_a_trial_that_has_ended_moves_nothing(registry: Registry) -> None:
    fleet, _ = fleet_of(registry, 1)
    registry.begin_trial("world", TRIED)
    order = registry.order("rollback", "world")  # and meanwhile the candidate was withdrawn
    assert order.kind == "withdraw"
    ended = Ended(candidate=TRIED, how="failing", why="it failed", trial=None, at=order.asked_at)
    registry.end_trial("world", ended)
    fleet._carry_out("world", order)
    alias = registry.read().aliases["world"]
    assert (alias.current, alias.order) == ("world@1", None)
    assert alias.outcome is not None
    assert (alias.outcome.ok, alias.outcome.message) == (False, "world@2 is not tried any more")


@pytest.mark.parametrize("kind", ["promote", "canary"])
def test_what_was_ordered_before_its_version_failed_is_not_done(
    registry: Registry, kind: Any
) -> None:
    fleet, engine = fleet_of(registry, 1)
    order = registry.order(kind, "world@2", share=0.1)
    later = order.asked_at + timedelta(seconds=1)
    ended = Ended(candidate=TRIED, how="failing", why="it failed", trial=None, at=later)
    registry.end_trial("world", ended)
    fleet._carry_out("world", order)
    alias = registry.read().aliases["world"]
    assert alias.outcome is not None
    assert alias.outcome.found_wanting
    assert alias.outcome.message == "world@2 was withdrawn meanwhile: it failed"
    assert (fleet._aliases["world"], engine.is_stopped) == ("world@1", False)
