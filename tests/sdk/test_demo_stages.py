"""Stages run once, and what another try left is removed first."""

from collections.abc import Callable
from pathlib import Path

import pytest

from rwml.demo.stages import Result, Stages

pytest.importorskip("psutil")


class Log:
    """Counts what a stage did."""

    def __init__(self) -> None:
        self.done: list[str] = []

    def work(self, name: str, *, fail: bool = False) -> Callable[[], Result]:
        def run() -> Result:
            self.done.append(name)
            if fail:
                raise KeyboardInterrupt
            return {"name": name}

        return run

    def reset(self) -> None:
        self.done.append("reset")


def play(folder: Path, log: Log, *, first: str = "x", fail: bool = False) -> list[Result]:
    stages = Stages(folder)
    return [
        stages.run("one", "One", log.work("one"), told=[first]),
        stages.run("two", "Two", log.work("two", fail=fail), told=[], reset=log.reset),
    ]


def test_a_whole_stage_is_not_run_again(tmp_path: Path) -> None:
    log = Log()
    first = play(tmp_path, log)
    assert play(tmp_path, Log()) == first == [{"name": "one"}, {"name": "two"}]
    assert log.done == ["one", "reset", "two"]


def test_a_change_reruns_what_follows_and_resets_it(tmp_path: Path) -> None:
    play(tmp_path, Log())
    log = Log()
    play(tmp_path, log, first="y")
    assert log.done == ["one", "reset", "two"]


def test_an_interrupted_stage_goes_on_if_it_is_the_same(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        play(tmp_path, Log(), fail=True)
    log = Log()
    play(tmp_path, log)
    assert log.done == ["two"], "the same stage again may use what is there"


def test_an_interrupted_stage_of_something_else_is_reset(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        play(tmp_path, Log(), fail=True)
    log = Log()
    play(tmp_path, log, first="y")
    assert log.done == ["one", "reset", "two"]


def test_a_torn_marker_is_no_marker(tmp_path: Path) -> None:
    play(tmp_path, Log())
    (tmp_path / "stages" / "two.json").write_text('{"key": ')
    log = Log()
    play(tmp_path, log)
    assert log.done == ["two"]
