"""Engines that are started in threads: real processes, and none is left behind."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from tests.trainer.served_stub import until
from tests.trainer.test_serving_registry import version

from rwml.errors import ServingError
from rwml_trainer.serving import starting
from rwml_trainer.serving.engine import HOST, Engine
from rwml_trainer.serving.process import ServerProcess, free_port
from rwml_trainer.serving.registry import Version
from rwml_trainer.serving.starting import Starter

HANGS = "import time; time.sleep(600)"
DIES = "raise SystemExit(3)"


class Engines:
    """Starts programs that never answer, and remembers them."""

    def __init__(self, code: str) -> None:
        self.code = code
        self.started: list[ServerProcess] = []

    def start(self, version: Version, work: Path) -> Engine:
        work.mkdir(parents=True, exist_ok=True)
        process = ServerProcess(
            name="engine",
            command=[sys.executable, "-c", self.code],
            env=os.environ,
            folder=work,
            log=work / "engine.log",
        )
        self.started.append(process)
        return Engine("transformers", f"http://{HOST}:{free_port()}/v1", "m", process)


def starter_of(engines: Engines, tmp_path: Path) -> Starter:
    return Starter(tmp_path / "engines", start_engine=engines.start, timeout_s=600)


@pytest.fixture
def model(tmp_path: Path) -> Version:
    """A version whose folder is empty, which is enough here."""
    folder = tmp_path / "model"
    folder.mkdir()
    return version(1).model_copy(update={"folder": str(folder), "weights": {}})


def test_an_engine_that_loads_while_the_server_ends_is_stopped(
    tmp_path: Path, model: Version
) -> None:
    engines = Engines(HANGS)
    starter = starter_of(engines, tmp_path)
    start, restart = starter.start(model), starter.restart(model.model_copy(update={"step": 2}))
    until(lambda: len(engines.started) == 2)
    starter.close()
    assert all(process.has_ended for process in engines.started)
    for each in (start, restart):
        with pytest.raises(ServingError, match="engine"):
            each.result(30)
    with pytest.raises(ServingError, match="the server ends"):
        starter.launch(model)
    assert len(engines.started) == 2, "none is started again"


def test_an_engine_of_somebody_else_is_asked_for_until_the_end(
    tmp_path: Path, model: Version, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(starting, "RESTARTS", 1)
    monkeypatch.setattr(starting, "LONGEST_PAUSE_S", 0)
    engines = Engines(DIES)
    starter = starter_of(engines, tmp_path)
    model.weights["gone"] = "its folder is not looked at"
    restart = starter.restart(model, is_elsewhere=True)
    until(lambda: len(engines.started) > 2)
    starter.close()
    with pytest.raises(ServingError):
        restart.result(30)
    assert all(process.is_stopped for process in engines.started)


def test_a_restart_that_is_given_up_tells_why_it_failed(tmp_path: Path, model: Version) -> None:
    engines = Engines(DIES)
    starter = starter_of(engines, tmp_path)
    restart = starter.restart(model, is_elsewhere=True)
    until(lambda: engines.started)
    starter.give_up(restart)
    with pytest.raises(ServingError, match="engine died"):
        restart.result(30)
    assert len(engines.started) <= 2
    starter.close()


def test_a_restart_gives_up_after_its_attempts(
    tmp_path: Path, model: Version, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(starting, "RESTARTS", 2)
    monkeypatch.setattr(starting, "LONGEST_PAUSE_S", 0)
    engines = Engines(DIES)
    starter = starter_of(engines, tmp_path)
    restart = starter.restart(model)
    with pytest.raises(ServingError, match=r"engine died \(exit code 3\)"):
        restart.result(30)
    assert len(engines.started) == 2
    assert all(process.is_stopped for process in engines.started)
    starter.close()
