"""`rwml ingest` on a log of completions, against a rescan of full histories, both into a store.

The log is that of `assembling`, as a file. The baseline is its baseline, which reads each line as a
whole and compares the history with those of all open trajectories; what it finds is redacted and
written by the same writer as ours.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import count
from pathlib import Path

from tests.benchmarks.assembling import STEPS, conversation_log
from tests.benchmarks.measure import Result, rates

from rwml.ingest import ingest_file
from rwml.ingest.results import ToolResults
from rwml.ingest.writing import Writer
from rwml.schema import Message, Step, Trajectory
from rwml.store import Store, open_store
from rwml.trajectory_recorder import complete_step

Import = Callable[[Path, Store], None]


def ingest_log_vs_naive() -> Result:
    """Lines per second from a file of 200-step conversations into a new SQLite store."""
    lines = conversation_log(STEPS)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        log = folder / "log.jsonl"
        log.write_text("\n".join(lines), encoding="utf-8")
        numbers = count()
        if _transitions(_ours, log, folder / "ours.db") != _transitions(
            _naive, log, folder / "naive.db"
        ):
            raise RuntimeError("the imports do not agree")

        def run(work: Import) -> None:
            with _store(folder / f"{next(numbers)}.db") as store:
                work(log, store)

        return rates(
            "ingest_log_vs_naive",
            ours=partial(run, _ours),
            baseline=partial(run, _naive),
            units=len(lines),
            unit="lines/s",
            rounds=3,
        )


@contextmanager
def _store(path: Path) -> Iterator[Store]:
    with open_store(f"sqlite:///{path}") as store:
        yield store


def _transitions(work: Import, log: Path, database: Path) -> list[str]:
    """What a world model learns from, without ids."""
    with _store(database) as store:
        work(log, store)
        return sorted(
            json.dumps([m.to_openai() for m in (*t.context, t.action, *t.next_state)])
            for trajectory in store.trajectories()
            for t in trajectory.transitions()
        )


def _ours(log: Path, store: Store) -> None:
    ingest_file(log, store, format="openai-jsonl")


def _naive(log: Path, store: Store) -> None:
    """Rescans full histories, and writes as we do."""
    histories: list[list[Message]] = []
    trajectories: list[tuple[tuple[Message, ...], list[Step]]] = []
    with log.open(encoding="utf-8") as lines:
        for line in lines:
            fields = json.loads(line)
            request = [Message.from_openai(wire) for wire in fields["messages"]]
            answer = Message.from_openai(fields["response"])
            fitting = [n for n, known in enumerate(histories) if request[: len(known)] == known]
            found = max(fitting, key=lambda n: len(histories[n]), default=None)
            if found is None:
                histories.append([*request, answer])
                step = Step(index=0, action=answer)
                trajectories.append((tuple(request), [step]))
                continue
            _, steps = trajectories[found]
            said = tuple(request[len(histories[found]) :])
            steps[-1] = complete_step(steps[-1].model_copy(update={"status": "ok"}), said)
            steps.append(Step(index=len(steps), action=answer))
            histories[found] = [*request, answer]
    writer = Writer(store, key=store.key, results=ToolResults(), lost=_must_not_be)
    for number, (initial, steps) in enumerate(trajectories):
        writer.add(Trajectory(id=f"{number}", source="bench", initial=initial, steps=tuple(steps)))
    writer.finish()


def _must_not_be(reason: str) -> None:
    raise RuntimeError(reason)
