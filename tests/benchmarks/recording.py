"""Recording: durable transitions through the recorder, against plain sqlite3 of the same bytes."""

from __future__ import annotations

import sqlite3
import tempfile
import uuid
from pathlib import Path

from tests.benchmarks.measure import Result, rates

from rwml import Recorder, Trajectory
from rwml.testing import make_trajectory

TRAJECTORIES = 500


def ingest_rows_vs_sqlite3() -> Result:
    """Steps per second, durable, redaction off, against `executemany` of their JSON bodies."""
    episodes = [make_trajectory(task) for task in range(TRAJECTORIES)]
    bodies = [
        (episode.id, step.index, step.model_dump_json(exclude_defaults=True))
        for episode in episodes
        for step in episode.steps
    ]
    with tempfile.TemporaryDirectory() as folder:
        return rates(
            "ingest_rows_vs_sqlite3",
            ours=lambda: _record(Path(folder), episodes),
            baseline=lambda: _insert(Path(folder), bodies),
            units=len(bodies),
            unit="steps/s",
        )


def _record(folder: Path, episodes: list[Trajectory]) -> None:
    store = f"sqlite:///{folder / uuid.uuid4().hex}.db"
    with Recorder(store=store, redact=None) as recorder:
        for episode in episodes:
            recorder.record(episode)
        if not recorder.flush(120):
            raise RuntimeError(f"not everything was written: {recorder.stats}")


def _insert(folder: Path, bodies: list[tuple[str, int, str]]) -> None:
    connection = sqlite3.connect(folder / f"{uuid.uuid4().hex}.db")
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("create table steps (id text, i int, body text, primary key (id, i))")
    with connection:
        connection.executemany("insert into steps values (?, ?, ?)", bodies)
    connection.close()
