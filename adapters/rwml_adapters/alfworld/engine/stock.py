"""TextWorld's own engine, as alfworld runs it, behind our `Engine`.

Nothing of it is patched. What it changes in the process (``sys.argv``, the environment, stdout
while PDDL is translated) is put back. It never gets a grammar that holds more than a game needs,
because it evaluates expressions as Python.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rwml.extras import require
from rwml_adapters.alfworld.engine.downward import contained
from rwml_adapters.alfworld.engine.grammar import read_grammar
from rwml_adapters.alfworld.logic import GameText


class StockEngine:
    """TextWorld's ``PddlEnv`` under alfworld's ``AlfredDemangler``.

    Args:
        text: the game.

    Raises:
        UsageError: its grammar cannot be read, or runs code.
        MissingExtraError: alfworld or textworld is not installed.
    """

    def __init__(self, text: GameText) -> None:
        require("alfworld", "alfworld", "textworld", "fast_downward")
        read_grammar(text.grammar)  # refuses what TextWorld would run as Python
        with contained():
            from alfworld.agents.environment.alfred_tw_env import AlfredDemangler
            from textworld.core import EnvInfos
            from textworld.envs.pddl import PddlEnv

            infos = EnvInfos(won=True, admissible_commands=True, moves=True, facts=True)
            self._game: Any = PddlEnv(infos)
            self._env: Any = AlfredDemangler(self._game)
            self._env.load(
                {
                    "pddl_domain": text.domain,
                    "grammar": text.grammar,
                    "pddl_problem": text.problem,
                }
            )
        self._state: Mapping[str, Any] = {}

    @property
    def feedback(self) -> str:
        """What the game said last."""
        return str(self._state["feedback"])

    @property
    def won(self) -> bool:
        """Whether the goal holds now."""
        return bool(self._state["won"])

    @property
    def moves(self) -> int:
        """Commands since the reset that the game understood."""
        return int(self._state["moves"])

    @property
    def admissible_commands(self) -> list[str]:
        """Commands that would be understood now, sorted."""
        return list(self._state["admissible_commands"])

    def reset(self) -> None:
        """Starts the game from the beginning."""
        with contained():
            self._state = self._env.reset()

    def step(self, command: str) -> None:
        """Runs one command."""
        self._state, _, _ = self._env.step(command)

    def expert_plan(self) -> list[str]:
        """Commands that win from here; empty when won or impossible."""
        if self.won:
            return []
        return list(self._game._pddl_state.replan(self._game._entity_infos))

    def facts(self) -> list[str]:
        """What is true now, sorted."""
        return sorted(
            f"{fact.name}({', '.join(name.strip() for name in fact.names)})"
            for fact in self._state["facts"]
        )

    def close(self) -> None:
        """Unloads the planner that this game loaded; may be called twice."""
        game, self._game, self._env = self._game, None, None
        if game is not None:
            import fast_downward

            fast_downward.close_lib(game.downward_lib)
