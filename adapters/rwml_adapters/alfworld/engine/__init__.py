"""Engines that run one game: `stock` is TextWorld's, `fast` is ours with the same results.

An engine knows no step limits and no agents, and takes commands after the game is won, as
TextWorld does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol, get_args

from rwml.errors import UsageError
from rwml_adapters.alfworld.logic import GameText

EngineName = Literal["fast", "stock"]


class Engine(Protocol):
    """A game being played; one caller at a time."""

    @property
    def feedback(self) -> str:
        """What the game said last."""
        ...

    @property
    def won(self) -> bool:
        """Whether the goal holds now."""
        ...

    @property
    def moves(self) -> int:
        """Commands since the reset that the game understood."""
        ...

    @property
    def admissible_commands(self) -> list[str]:
        """Commands that would be understood now, sorted."""
        ...

    def reset(self) -> None:
        """Starts the game from the beginning."""
        ...

    def step(self, command: str) -> None:
        """Runs one command; the game answers "Nothing happens." to what it does not know."""
        ...

    def expert_plan(self) -> list[str]:
        """Commands that win from here, by the engine's planner; empty when won or none is found.

        The two engines have planners of their own: both plans win, they need not be the same.
        """
        ...

    def facts(self) -> Sequence[str]:
        """What is true now, sorted, as ``inreceptacle(mug 1, desk 1)``."""
        ...

    def close(self) -> None:
        """Gives back what the engine holds; may be called twice."""
        ...


def open_engine(name: EngineName, text: GameText) -> Engine:
    """Prepares a game; `reset` starts it.

    Raises:
        UsageError: no such engine.
        MissingExtraError: alfworld or textworld is not installed.
    """
    if name == "fast":
        from rwml_adapters.alfworld.engine.fast import FastEngine

        return FastEngine(text)
    if name == "stock":
        from rwml_adapters.alfworld.engine.stock import StockEngine

        return StockEngine(text)
    raise UsageError(f"no engine {name!r}: use one of {', '.join(get_args(EngineName))}")
