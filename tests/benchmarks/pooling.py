"""ALFWorld environments over worker processes: two of them, against one.

What two processes can gain is what the machine has to spare, so two that only count are measured
beside them: no pool does better than those.
"""

from __future__ import annotations

import random
import statistics
import subprocess
import sys
import time

from tests.adapters.alfworld_games import games_at_hand
from tests.benchmarks.measure import ROUNDS, Result, rates

from rwml.cli.output import say
from rwml_adapters.alfworld import AlfworldPool, Game

SIZE = 32
STEPS = 200
GAMES = 32
COUNTING = "for _ in range(10_000_000): pass"
NO_LIMIT = 1_000_000
"""Steps of an episode: none ends while it is measured, but by winning."""


def alfworld_pool_2proc_vs_1() -> list[Result]:
    """Steps per second of 32 environments in lock-step, random admissible commands; warm."""
    games = games_at_hand("valid_seen")[:GAMES]
    if not games:
        say("alfworld_pool_2proc_vs_1: left out, no ALFWorld games at hand (alfworld-download)")
        return []
    say(f"two processes that only count do {_gain():.2f} times the work of one")
    with _pool(games, workers=2) as two, _pool(games, workers=1) as one:
        return [
            rates(
                "alfworld_pool_2proc_vs_1",
                ours=lambda: _walk(two),
                baseline=lambda: _walk(one),
                units=SIZE * STEPS,
                unit="steps/s",
            )
        ]


def _gain() -> float:
    times: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(ROUNDS):
        for count, taken in times.items():
            started = time.perf_counter()
            busy = [subprocess.Popen([sys.executable, "-c", COUNTING]) for _ in range(count)]
            for process in busy:
                process.wait()
            taken.append(time.perf_counter() - started)
    return 2 * statistics.median(times[1]) / statistics.median(times[2])


def _pool(games: list[Game], *, workers: int) -> AlfworldPool:
    pool = AlfworldPool(games, size=SIZE, workers=workers, max_steps=NO_LIMIT)
    pool.reset()
    return pool


def _walk(pool: AlfworldPool) -> None:
    rng = random.Random(0)
    commands = ["look"] * pool.size
    for _ in range(STEPS):
        infos = pool.step(commands)[4]
        commands = [rng.choice(info["admissible_commands"]) for info in infos]
