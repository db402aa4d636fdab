"""Gate 1: what was acknowledged survives any end of the process, and no file is torn."""

from __future__ import annotations

import contextlib
import random
import signal
import sqlite3
import subprocess
import time
from pathlib import Path

import pytest
from tests.gates.common import command, environment, figure, rounds, texts

from rwml.spool import Spool

WRITERS = 4
ENOUGH = 2_000
"""Acknowledged steps of all writers together, after which a round may end."""


def acknowledged(written: list[str]) -> int:
    whole = [line for line in written if line.startswith("ack ") and line.endswith("\n")]
    return int(whole[-1].split()[1]) if whole else 0


def one_round(folder: Path, number: int, *, wanted: int) -> dict[str, int]:
    """Starts writers, kills them all in the middle; returns what each was promised."""
    url = f"sqlite:///{folder / 'rwml.db'}"
    names = [f"r{number}-w{place}" for place in range(WRITERS)]
    logs = {name: folder / f"{name}.log" for name in names}
    with contextlib.ExitStack() as stack:
        writers = [
            subprocess.Popen(
                command("killed_writer", url, name, "loop"),
                stdout=stack.enter_context(logs[name].open("w")),
                env=environment(),
            )
            for name in names
        ]

        def promised() -> dict[str, int]:
            return {
                name: acknowledged(log.read_text().splitlines(keepends=True))
                for name, log in logs.items()
            }

        try:
            deadline = time.monotonic() + 120
            while sum(promised().values()) < wanted and time.monotonic() < deadline:
                assert all(writer.poll() is None for writer in writers)
                time.sleep(random.uniform(0.01, 0.05))
        finally:
            for writer in writers:
                writer.send_signal(signal.SIGKILL)
            for writer in writers:
                writer.wait(30)
    return promised()


def spooled(folder: Path) -> dict[str, set[int]]:
    """Steps by trajectory that wait on disk, as whoever takes over would find them."""
    found: dict[str, set[int]] = {}
    spool = Spool(folder)
    spool.adopt()
    while (oldest := spool.oldest()) is not None:
        token, batch = oldest
        for row in batch.steps:
            found.setdefault(row.trajectory_id, set()).add(row.step_index)
        spool.remove(token)
    return found


def test_killed_writers_lose_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    number = rounds(3, 50)
    promised: dict[str, int] = {}
    for place in range(number):
        promised |= one_round(tmp_path, place, wanted=rounds(1_000, ENOUGH))
    with contextlib.closing(sqlite3.connect(tmp_path / "rwml.db")) as connection:
        assert connection.execute("pragma integrity_check").fetchall() == [("ok",)]
    found = texts(f"sqlite:///{tmp_path / 'rwml.db'}")
    waiting = spooled(tmp_path / "rwml.db.spool")
    lost = wrong = 0
    for name, count in promised.items():
        stored = found.get(name, [])
        wrong += sum(not text.startswith(f"{name} {n} ") for n, text in enumerate(stored))
        known = set(range(len(stored))) | waiting.get(name, set())
        lost += len(set(range(count)) - known)
    total = sum(promised.values())
    figure("1_kill", rounds=number, acknowledged=total, lost=lost, torn=wrong)
    assert total >= rounds(3_000, 100_000)
    assert (lost, wrong) == (0, 0)


@pytest.mark.parametrize("way", ["exit", "thread"])
def test_normal_ends_lose_nothing_that_was_accepted(tmp_path: Path, way: str) -> None:
    url = f"sqlite:///{tmp_path / 'rwml.db'}"
    started = time.monotonic()
    subprocess.run(
        command("killed_writer", url, "one", way), env=environment(), check=True, timeout=60
    )
    lost = 500 - len(texts(url)["one"])
    figure(f"1_end_{way}", accepted=500, lost=lost, seconds=round(time.monotonic() - started, 2))
    assert lost == 0


def test_sigterm_loses_nothing_that_was_accepted(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'rwml.db'}"
    with subprocess.Popen(
        command("terminated", url), env=environment(), stdout=subprocess.PIPE, text=True
    ) as program:
        assert program.stdout is not None
        accepted = int(program.stdout.readline().split()[1])
        started = time.monotonic()
        program.send_signal(signal.SIGTERM)
        status = program.wait(60)
        seconds = round(time.monotonic() - started, 2)
    lost = accepted - 1 - len(texts(url)["one"])
    figure("1_sigterm", accepted=accepted, lost=lost, seconds=seconds)
    assert (accepted, lost) == (2001, 0)
    assert status == -signal.SIGTERM  # as if nobody had been there
