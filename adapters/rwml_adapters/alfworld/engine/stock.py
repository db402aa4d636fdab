"""TextWorld's own engine, as alfworld runs it, behind our `Engine`.

Nothing of it is patched. What it changes in the process (``sys.argv``, stdout while PDDL is
translated, alfworld's variable) is put back. It never gets a grammar that holds more than a game
needs, because it evaluates expressions as Python.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from rwml.extras import require
from rwml_adapters.alfworld.engine.exclusive import exclusive
from rwml_adapters.alfworld.engine.grammar import read_grammar
from rwml_adapters.alfworld.games import DATA_VARIABLE
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
        with exclusive():
            read_grammar(text.grammar)  # refuses what TextWorld would run as Python
            from textworld.core import EnvInfos
            from textworld.envs.pddl import PddlEnv

            infos = EnvInfos(won=True, admissible_commands=True, moves=True, facts=True)
            self._game: Any = PddlEnv(infos)
            self._env: Any = _demangler()(self._game)
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
        with exclusive():
            self._state = self._env.reset()

    def step(self, command: str) -> None:
        """Runs one command."""
        with exclusive():
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
        """Frees the planner's memory of this game; may be called twice."""
        game, self._game, self._env = self._game, None, None
        if game is not None:
            # Not unloaded (fast_downward.close_lib): that crashes the process now and then.
            game.downward_lib.cleanup()


def _demangler() -> Any:
    """Alfworld's names; importing alfworld sets a variable that the process may not have."""
    before = os.environ.get(DATA_VARIABLE)
    from alfworld.agents.environment.alfred_tw_env import AlfredDemangler

    if before is None:
        os.environ.pop(DATA_VARIABLE, None)
    return AlfredDemangler
