"""Compares both engines on every game at hand, with both logics: ``make test-alfworld``.

`python -m tests.alfworld [--workers N] [--commands N] [--seed N]`; about an hour on one core. What
has been compared is kept in ``build/alfworld.jsonl``, so that an interrupted run goes on; a change
of the engine's code starts again.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import get_args

from tests.adapters.alfworld_games import games_at_hand
from tests.alfworld.walks import compare

import rwml_adapters.alfworld
from rwml.cli.output import progress, say
from rwml.files import write_json
from rwml_adapters.alfworld import SPLITS, Game
from rwml_adapters.alfworld.logic import LogicName

BUILD = Path(__file__).resolve().parents[2] / "build"
KEPT = BUILD / "alfworld.jsonl"
RESULT = BUILD / "alfworld.json"
ATTEMPTS = 5
"""How often a pool is made again after one of its processes died."""

Job = tuple[str, str, LogicName]
"""Split, game and logic."""


def main() -> int:
    """Returns 0 when the engines agree everywhere, 1 when not, 2 when there are no games."""
    parser = argparse.ArgumentParser(prog="python -m tests.alfworld")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--commands", type=int, default=15, help="of each random walk")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    games = {(split, game.id): game for split in SPLITS for game in games_at_hand(split)}
    if not games:
        say("no ALFWorld games: set ALFWORLD_DATA (alfworld-download gets them)")
        return 2
    jobs: list[Job] = [(*key, logic) for logic in get_args(LogicName) for key in games]
    run = f"{_version()}:{options.commands}:{options.seed}"
    done = {job: states for job, states in _kept(run) if job in jobs}
    todo = [job for job in jobs if job not in done]
    random.Random(options.seed).shuffle(todo)  # of an interrupted run, some of every kind
    say(f"{len(games)} games, {len(jobs)} comparisons, {len(jobs) - len(todo)} done before")
    BUILD.mkdir(exist_ok=True)
    failures: list[str] = []
    with progress("alfworld", total=len(todo)) as advance:
        for _ in range(ATTEMPTS):
            for job, states, error in _compared(
                {job: games[job[0], job[1]] for job in todo},
                workers=options.workers,
                seed=options.seed,
                commands=options.commands,
            ):
                todo.remove(job)
                advance(job[1][:24])
                if error is not None:
                    failures.append(f"{'/'.join(job)}: {type(error).__name__}: {error}")
                    say(failures[-1])
                    continue
                done[job] = states
                with KEPT.open("a", encoding="utf-8") as kept:
                    kept.write(json.dumps({"run": run, "job": job, "states": states}) + "\n")
    failures += [f"{'/'.join(job)}: its process died" for job in todo]
    result = {"games": len(games), "comparisons": len(jobs), "states": sum(done.values())}
    write_json(RESULT, {**result, "failures": failures})
    say(f"{len(done)} of {len(jobs)} agree, {result['states']} states compared")
    return 1 if failures else 0


def _compared(
    jobs: dict[Job, Game], *, workers: int, seed: int, commands: int
) -> Iterator[tuple[Job, int, BaseException | None]]:
    """Compares, in processes; ends early when one of them dies, as TextWorld's planner may."""
    # A fresh process now and then: that planner never gives all its memory back.
    with ProcessPoolExecutor(workers, max_tasks_per_child=20) as pool:
        futures = {
            pool.submit(compare, game.file, logic=job[2], seed=seed, commands=commands): job
            for job, game in jobs.items()
        }
        try:
            for future in as_completed(futures):
                error = future.exception()
                if isinstance(error, BrokenProcessPool):
                    return
                yield futures[future], 0 if error else future.result(), error
        finally:
            pool.shutdown(cancel_futures=True)  # Ctrl-C waits for what runs, not for all


def _version() -> str:
    """Of the code that is tested and that tests."""
    digest = hashlib.sha256()
    folder = Path(rwml_adapters.alfworld.__file__).parent
    engine = sorted((folder / "engine").glob("*.py"))
    for file in (*engine, folder / "logic.py", Path(__file__).with_name("walks.py")):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def _kept(run: str) -> Iterator[tuple[Job, int]]:
    """What earlier runs of the same code compared."""
    if not KEPT.exists():
        return
    for line in KEPT.read_text(encoding="utf-8").splitlines():
        try:
            entry = json.loads(line)
        except ValueError:  # the end of a run that was killed
            continue
        if entry["run"] == run:
            split, game, logic = entry["job"]
            yield (split, game, logic), entry["states"]


if __name__ == "__main__":
    sys.exit(main())
