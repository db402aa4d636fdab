"""Environments: benchmarks and tools in which an agent is recorded and evaluated.

A third party fulfils `Environment` and announces a factory in the entry-point group
``rwml.environments``; see docs/environments.md.
"""

from rwml.environments.contract import Environment, Episode, Factory, Summarizes, Task
from rwml.environments.planning import check_split, episode_seed, plan_episodes
from rwml.environments.running import Finished, infrastructure_error, new_trajectory, run_episodes

__all__ = [
    "Environment",
    "Episode",
    "Factory",
    "Finished",
    "Summarizes",
    "Task",
    "check_split",
    "episode_seed",
    "infrastructure_error",
    "new_trajectory",
    "plan_episodes",
    "run_episodes",
]
