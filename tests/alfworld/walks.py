"""Walks one game on both engines at once, and compares all that can be seen after each command."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

from rwml_adapters.alfworld.engine import Engine, open_engine
from rwml_adapters.alfworld.logic import LogicName, load_game

NONSENSE = (
    "xyzzy",
    "",
    "   ",
    "look around",
    "go to",
    "take mug 99 from desk 99",
    "LOOK",
    "help me",
)
AFTER_WINNING = 3


class DifferentError(AssertionError):
    """The engines disagree."""


def compare(file: Path, *, logic: LogicName, seed: int, commands: int) -> int:
    """Plays a random walk, an expert's from its end, and one from the start, on both engines.

    Args:
        file: of the game.
        logic: that it is played with.
        seed: of the random walk.
        commands: of the random walk.

    Returns:
        How many states were compared.

    Raises:
        DifferentError: the engines disagree; its text has the commands that led there.
    """
    text = load_game(file, logic=logic)
    fast, stock = open_engine("fast", text), open_engine("stock", text)
    try:
        pair = _Pair(fast, stock, name=f"{file.parent.parent.name}/{file.parent.name} ({logic})")
        rng = random.Random(seed)
        pair.reset()
        for command in _random_walk(pair, rng, commands):
            pair.step(command)
        pair.win()  # from wherever the walk ended
        for command in _random_walk(pair, rng, AFTER_WINNING):
            pair.step(command)
        pair.reset()
        pair.win()
        return pair.compared
    finally:
        fast.close()
        stock.close()


class _Pair:
    """Two engines that are given the same commands."""

    def __init__(self, fast: Engine, stock: Engine, *, name: str) -> None:
        self.fast, self.stock = fast, stock
        self.name = name
        self.given: list[str] = []
        self.compared = 0

    def reset(self) -> None:
        self.given = []
        self.fast.reset()
        self.stock.reset()
        self._compare()

    def step(self, command: str) -> None:
        self.given.append(command)
        self.fast.step(command)
        self.stock.step(command)
        self._compare()

    def win(self) -> None:
        """Follows the fast engine's plan, which must win on both."""
        plan = self.fast.expert_plan()
        for number, command in enumerate(plan):
            if self.fast.expert_plan() != plan[number:]:
                self._differ("the plan changed on the way")
            self.step(command)
            if self.fast.feedback == "Nothing happens.":
                self._differ(f"the plan's {command!r} was not understood")
        if not self.fast.won:
            self._differ("the plan did not win")

    def _compare(self) -> None:
        self.compared += 1
        for what in ("feedback", "won", "moves", "admissible_commands"):
            ours, theirs = getattr(self.fast, what), getattr(self.stock, what)
            if ours != theirs or type(ours) is not type(theirs):
                self._differ(f"{what}: {ours!r} is not {theirs!r}")
        if (ours := self.fast.facts()) != (theirs := self.stock.facts()):
            self._differ(f"facts: {sorted(set(ours) ^ set(theirs))}")
        ours = list(self.fast._understood())  # pyright: ignore[reportAttributeAccessIssue]
        listed = self.stock._state["_valid_commands"]  # pyright: ignore[reportAttributeAccessIssue]
        if ours != list(dict.fromkeys(listed)):
            self._differ(f"order of the operators: {ours} is not {listed}")

    def _differ(self, what: str) -> None:
        raise DifferentError(f"{self.name}: {what}; after {self.given}")


def _random_walk(pair: _Pair, rng: random.Random, commands: int) -> Iterator[str]:
    """Commands by verb first, so that not all of them are walks; some that cannot work."""
    seen: list[str] = []
    for _ in range(commands):
        now = pair.fast.admissible_commands
        seen += now
        kind = rng.random()
        if kind < 0.1:
            yield rng.choice(NONSENSE)
        elif kind < 0.2:
            yield rng.choice(seen)  # often of another place by now
        elif kind < 0.25:
            yield f"  {rng.choice(now)}\n"
        else:
            verbs: dict[str, list[str]] = {}
            for command in now:
                verbs.setdefault(command.split()[0], []).append(command)
            yield rng.choice(verbs[rng.choice(sorted(verbs))])
