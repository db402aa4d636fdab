"""ALFWorld: the fast engine against TextWorld's, on the same games and the same commands.

The two take turns at every step, so that noise hits both. A reset is a new environment of a game
file and its first observation, which is what an episode costs: nothing is kept in the process.
"""

from __future__ import annotations

import os
import random
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tests.adapters.alfworld_games import games_at_hand
from tests.benchmarks.measure import Result, rates

from rwml.cli.output import say
from rwml_adapters.alfworld import AlfworldEnv, Game
from rwml_adapters.alfworld.engine import EngineName

GAMES = 4
"""Of a small, two middling and a large room."""

COMMANDS = 25
RESET_ROUNDS = 3


def alfworld_speed() -> list[Result]:
    """Steps per second, and resets per second with a warm and with an empty cache."""
    games = sorted(
        games_at_hand("valid_seen"), key=lambda game: (game.file.stat().st_size, game.id)
    )
    if not games or find_spec("alfworld") is None:
        say("alfworld: left out, no games or no rwml[alfworld]")
        return []
    games.sort(key=lambda game: (game.file.stat().st_size, game.id))
    chosen = [games[round(at * (len(games) - 1) / (GAMES - 1))] for at in range(GAMES)]
    with _cache():
        return [_steps(chosen), _resets(chosen, cold=False), _resets(chosen, cold=True)]


def _steps(games: list[Game]) -> Result:
    """Steps with everything an agent gets: observation, reward, flags, admissible commands."""
    names: tuple[EngineName, ...] = ("fast", "stock")
    times = dict.fromkeys(names, 0.0)
    steps = 0
    for game in games:
        rng = random.Random(game.id)
        environments: list[tuple[EngineName, AlfworldEnv]] = [
            (name, AlfworldEnv(game, engine=name, max_steps=999)) for name in names
        ]
        commands: Any = []
        for _, environment in environments:
            commands = environment.reset()[1]["admissible_commands"]
        for _ in range(COMMANDS):
            command, won = rng.choice(commands), False
            for name, environment in environments:
                started = time.perf_counter()
                *_, won, _, info = environment.step(command)
                times[name] += time.perf_counter() - started
                commands = info["admissible_commands"]
            steps += 1
            if won:
                break
        for _, environment in environments:
            environment.close()
    value, base = steps / times["fast"], steps / times["stock"]
    return Result("alfworld_steps_vs_stock", value, "steps/s", base, value / base)


def _resets(games: list[Game], *, cold: bool) -> Result:
    name = "alfworld_reset_cold_vs_stock" if cold else "alfworld_reset_vs_stock"
    _reset(games, "fast")  # imports count for neither

    def ours() -> None:
        if cold:
            shutil.rmtree(Path(os.environ["XDG_CACHE_HOME"]) / "rwml")
        _reset(games, "fast")

    return rates(
        name,
        ours=ours,
        baseline=lambda: _reset(games, "stock"),
        units=len(games),
        unit="resets/s",
        rounds=RESET_ROUNDS,
    )


def _reset(games: list[Game], engine: EngineName) -> None:
    for game in games:
        with AlfworldEnv(game, engine=engine) as environment:
            environment.reset()


@contextmanager
def _cache() -> Iterator[None]:
    """A cache of this run's own."""
    before = os.environ.get("XDG_CACHE_HOME")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = folder
        try:
            yield
        finally:
            if before is None:
                del os.environ["XDG_CACHE_HOME"]
            else:
                os.environ["XDG_CACHE_HOME"] = before
