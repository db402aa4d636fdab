"""Recording: durable transitions through the recorder, against plain sqlite3 of the same bytes."""

from __future__ import annotations

import json
import sqlite3
import tempfile
import uuid
from pathlib import Path

from tests.benchmarks.measure import Result, rates

from rwml import Message, Recorder, Step, ToolCall, Trajectory
from rwml.recorder import DEFAULT_REDACTION
from rwml.store.batches import header_row, step_row

TRAJECTORIES = 400
STEPS = 20
RESULT_CHARS = 2_000
UNBOUNDED = 1 << 40
"""The writer is what is measured, not what the queue refuses."""


def ingest_rows_vs_sqlite3() -> Result:
    """Transitions per second, durable, redaction off, against `executemany` of the same bytes."""
    return _ingest("ingest_rows_vs_sqlite3", redact=None, personal=0)


def ingest_redacted_vs_sqlite3() -> Result:
    """The same with redaction as it is by default; one result in ten holds personal data."""
    return _ingest("ingest_redacted_vs_sqlite3", redact=DEFAULT_REDACTION, personal=10)


def _ingest(name: str, *, redact: object, personal: int) -> Result:
    episodes = [_episode(number, personal=personal) for number in range(TRAJECTORIES)]
    headers = [(episode.id, header_row(episode).body) for episode in episodes]
    steps = [
        (episode.id, step.index, step_row(episode.id, step).body)
        for episode in episodes
        for step in episode.steps
    ]
    with tempfile.TemporaryDirectory() as folder:
        return rates(
            name,
            ours=lambda: _record(Path(folder), episodes, redact),
            baseline=lambda: _insert(Path(folder), headers, steps),
            units=len(steps),
            unit="transitions/s",
        )


def _episode(number: int, *, personal: int) -> Trajectory:
    """A tool-calling episode with results of two kilobytes, as JSON lists of orders are."""
    steps = []
    for index in range(STEPS):
        call = ToolCall(id=f"call_{number}_{index}", name="find_orders", arguments={"page": index})
        place = number * STEPS + index
        steps.append(
            Step(
                index=index,
                action=Message(role="assistant", tool_calls=(call,)),
                observation=(
                    Message(
                        role="tool",
                        content=_result(place, mail=bool(personal) and place % personal == 0),
                        tool_call_id=call.id,
                    ),
                ),
                kind="tool",
                status="ok",
            )
        )
    return Trajectory(
        id=f"episode-{number}",
        source="shop",
        initial=(Message(role="user", content=f"Please list the orders of customer {number}."),),
        steps=tuple(steps),
    )


def _result(place: int, *, mail: bool) -> str:
    orders = []
    while len(text := json.dumps(orders)) < RESULT_CHARS:
        number = 1000 * place + len(orders)
        orders.append(
            {"order_id": f"#W{number:07}", "status": "delivered", "total": 10.5 + len(orders)}
        )
    if mail:
        orders.append({"contact": f"customer.{place}@example.com"})
        text = json.dumps(orders)
    return text


def _record(folder: Path, episodes: list[Trajectory], redact: object) -> None:
    store = f"sqlite:///{folder / uuid.uuid4().hex}.db"
    with Recorder(
        store=store,
        redact=redact,  # type: ignore[arg-type]
        queue_records=UNBOUNDED,
        queue_bytes=UNBOUNDED,
    ) as recorder:
        for episode in episodes:
            recorder.record(episode)
        if not recorder.flush(120):
            raise RuntimeError(f"not everything was written: {recorder.stats}")


def _insert(
    folder: Path, headers: list[tuple[str, str]], steps: list[tuple[str, int, str]]
) -> None:
    connection = sqlite3.connect(folder / f"{uuid.uuid4().hex}.db")
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("create table trajectories (id text primary key, body text)")
    connection.execute("create table steps (id text, i int, body text, primary key (id, i))")
    with connection:
        connection.executemany("insert into trajectories values (?, ?)", headers)
        connection.executemany("insert into steps values (?, ?, ?)", steps)
    connection.close()
