"""One ALFWorld game behind gymnasium's API, with what an ALFWorld agent sees.

The environment uses no fixed files and no state of the process, so that many of them run beside
each other. It decides nothing about agents, recording or scores over several games.
"""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import TypeAlias

from pydantic import JsonValue

from rwml.errors import UsageError
from rwml_adapters.alfworld.engine import Engine, EngineName, open_engine
from rwml_adapters.alfworld.games import Game, task_type_of
from rwml_adapters.alfworld.logic import GameText, LogicName, load_game

Info: TypeAlias = dict[str, JsonValue]

MAX_STEPS = 30
"""Steps of an episode (paper, section 4.1; alfworld's own limit is 50)."""


class AlfworldEnv:
    """A game that is reset and stepped through; one caller at a time.

    ``info`` holds ``admissible_commands``, ``won``, ``goal`` (the task in words), ``task_type``,
    ``steps`` (commands so far), ``moves`` (those that the game understood), and on request
    ``expert_plan``.

    Args:
        game_file: a `Game` or the path of its ``game.tw-pddl``.
        engine: ``fast`` or ``stock``; both give the same texts.
        max_steps: commands after which the episode is truncated.
        logic: ``installed`` (alfworld's, as it plays today) or ``own`` (the game file's).
        expert_plan: adds to each ``info`` the commands that win from there; takes a planner's time.

    Raises:
        UsageError: an argument that cannot work, or the file is no game.
        MissingExtraError: alfworld is not installed.
    """

    def __init__(
        self,
        game_file: Game | Path | str,
        *,
        engine: EngineName = "fast",
        max_steps: int = MAX_STEPS,
        logic: LogicName = "installed",
        expert_plan: bool = False,
    ) -> None:
        if max_steps < 1:
            raise UsageError(f"max_steps must be 1 or more, not {max_steps}")
        file = game_file.file if isinstance(game_file, Game) else Path(game_file)
        self._text = load_game(file, logic=logic)
        self._task_type = task_type_of(file)
        self._max_steps = max_steps
        self._wants_plan = expert_plan
        self._engine: Engine = open_engine(engine, self._text)
        self._steps = 0
        self._over: str | None = "it has not begun"

    @property
    def text(self) -> GameText:
        """The game and the logic it runs on, named in `GameText.logic`."""
        return self._text

    def reset(self, *, seed: int | None = None, options: Info | None = None) -> tuple[str, Info]:
        """Starts an episode.

        Args:
            seed: taken for gymnasium's sake; the game has nothing random in it.
            options: of gymnasium, unused.

        Returns:
            The first observation, with the task in it, and ``info``.
        """
        self._engine.reset()
        self._steps, self._over = 0, None
        return self._engine.feedback, self._info()

    def step(self, action: str) -> tuple[str, float, bool, bool, Info]:
        """Runs one command.

        Returns:
            Observation, reward (1.0 on winning, else 0.0), terminated (won), truncated (out of
            steps), ``info``.

        Raises:
            UsageError: the episode has not begun or is over: call `reset`.
        """
        if self._over is not None:
            raise UsageError(f"no step in this episode, {self._over}: call reset()")
        self._engine.step(action)
        self._steps += 1
        won = self._engine.won
        truncated = not won and self._steps >= self._max_steps
        if won or truncated:
            self._over = "it is over"
        return self._engine.feedback, float(won), won, truncated, self._info()

    def expert_plan(self) -> list[str]:
        """Commands that win from here, by alfworld's planner; empty once won.

        Raises:
            UsageError: the episode has not begun.
        """
        if self._over is not None and self._over != "it is over":
            raise UsageError("no plan before the episode has begun: call reset()")
        return self._engine.expert_plan()

    def close(self) -> None:
        """Gives back what the engine holds; the environment is of no use afterwards."""
        self._engine.close()

    def __enter__(self) -> AlfworldEnv:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _info(self) -> Info:
        info: Info = {
            "admissible_commands": list(self._engine.admissible_commands),
            "won": self._engine.won,
            "goal": self._text.goal,
            "task_type": self._task_type,
            "steps": self._steps,
            "moves": self._engine.moves,
        }
        if self._wants_plan:
            info["expert_plan"] = list(self._engine.expert_plan())
        return info
