"""Gate 5: threads, tasks, processes and forks at once mix nothing up, lose and double nothing."""

from __future__ import annotations

import contextlib
import sqlite3
import subprocess
from pathlib import Path

import pytest
from tests.gates.common import command, environment, figure, rounds, run

from rwml import Recorder, open_store


def check(url: str, *, expected: int, steps: int) -> dict[str, int]:
    """Counts what is not as it was recorded; what a process left on the disk is written first."""
    with Recorder(store=url) as recorder:
        assert recorder.flush(60), recorder.stats
    wrong = missing = trajectories = 0
    with open_store(url, create=False) as store:
        for trajectory in store.trajectories():
            trajectories += "parent" not in trajectory.id
            missing += abs(steps - len(trajectory.steps))
            for place, step in enumerate(trajectory.steps):
                text = f"{trajectory.id} {place}"
                said = [message.content for message in step.observation]
                wrong += (step.index, step.action.content, said) != (place, text, [f"{text}!"])
        orphans = store.counts().orphans
    with contextlib.closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as connection:
        assert connection.execute("pragma integrity_check").fetchall() == [("ok",)]
    return {
        "trajectories": trajectories,
        "missing": missing + abs(expected - trajectories) + orphans,
        "wrong": wrong,
    }


@pytest.mark.parametrize(
    ("way", "number", "steps"),
    [
        ("threads", 32, rounds(25, 500)),  # an action and what came back: two records
        ("tasks", rounds(100, 1000), rounds(5, 20)),
        ("forks", rounds(12, 500), 5),
    ],
)
def test_at_once_in_one_process(tmp_path: Path, way: str, number: int, steps: int) -> None:
    url = f"sqlite:///{tmp_path / 'rwml.db'}"
    run("writers", url, way, number, steps, timeout_s=rounds(240, 1800))
    seen = check(url, expected=number, steps=steps)
    figure(f"5_{way}", number=number, records_of_each=2 * steps + 2, **seen)
    assert (seen["missing"], seen["wrong"]) == (0, 0)


def test_at_once_in_many_processes(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'rwml.db'}"
    processes, threads, steps = rounds(4, 8), 4, rounds(25, 500)
    programs = [
        subprocess.Popen(
            command("writers", url, "threads", threads, steps, f"p{place}"),
            env=environment(),
            stdout=subprocess.DEVNULL,
        )
        for place in range(processes)
    ]
    try:
        for program in programs:
            assert program.wait(rounds(120, 1200)) == 0
    finally:
        for program in programs:
            program.kill()
    seen = check(url, expected=processes * threads, steps=steps)
    figure("5_processes", number=processes, records_of_each=threads * (2 * steps + 2), **seen)
    assert (seen["missing"], seen["wrong"]) == (0, 0)
