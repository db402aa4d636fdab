"""ALFWorld: its games as text environments, without patching alfworld or textworld.

`AlfworldEnv` plays one game behind gymnasium's API, `AlfworldPool` many of them in worker
processes; `find_games` lists the games at hand.
Importing this package is light: alfworld and textworld load on first use.
"""

from __future__ import annotations

from rwml_adapters.alfworld.env import AlfworldEnv
from rwml_adapters.alfworld.games import SPLITS, TASK_TYPES, Game, find_games
from rwml_adapters.alfworld.pool import AlfworldPool

__all__ = ["SPLITS", "TASK_TYPES", "AlfworldEnv", "AlfworldPool", "Game", "find_games"]
