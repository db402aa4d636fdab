"""Which episodes a run consists of, decided before the first one starts.

The same arguments give the same episodes, ids and seeds on every machine, so that a run can be
resumed and two runs can be paired. Source: ours.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from rwml.environments.contract import Environment, Episode, Task
from rwml.errors import UsageError

SHOWN_CHOICES = 10
"""Task ids that are named when one is unknown (ours)."""


def plan_episodes(
    environment: Environment,
    *,
    split: str | None = None,
    first: int | None = None,
    task_ids: Sequence[str] = (),
    trials: int = 1,
    seed: int = 0,
    max_steps: int | None = None,
) -> list[Episode]:
    """The episodes of a run: every task once, then every task again for the next trial.

    So a run that is cut short has seen most tasks, and not one task most often.

    Args:
        environment: whose tasks are played.
        split: None for the environment's first.
        first: only the first N tasks.
        task_ids: only these tasks.
        trials: attempts at each task.
        seed: of the run.
        max_steps: of an episode; None for the environment's own limit.

    Raises:
        UsageError: an unknown split or task, or a number that cannot be.
    """
    steps = environment.default_max_steps if max_steps is None else max_steps
    for name, number in (("--tasks", first), ("--trials", trials), ("--max-steps", steps)):
        if number is not None and number < 1:
            raise UsageError(f"{name} must be 1 or more, not {number}")
    split = environment.splits[0] if split is None else split
    check_split(environment, split)
    tasks = environment.tasks(split)
    if not tasks:
        raise UsageError(f"{environment.source} has no task in this split: use another one")
    return [
        Episode(
            task=task,
            trial=trial,
            seed=episode_seed(seed, task.id, trial),
            max_steps=steps,
            id=_episode_id(environment, task, seed=seed, trial=trial),
        )
        for trial in range(trials)
        for task in _select(tasks, ids=task_ids, first=first)
    ]


def check_split(environment: Environment, split: str) -> None:
    """Refuses a split that the environment does not have.

    Raises:
        UsageError: it has none of this name; it says which ones it has.
    """
    if split not in environment.splits:
        known = ", ".join(environment.splits)
        raise UsageError(f"no split {split!r} in {environment.source}: use one of {known}")


def episode_seed(seed: int, task_id: str, trial: int) -> int:
    """Seed of one episode: independent of the other episodes and of their order; 31 bits."""
    digest = hashlib.sha256(f"{seed}\0{task_id}\0{trial}".encode()).digest()
    return int.from_bytes(digest[:4]) >> 1


def _select(tasks: Sequence[Task], *, ids: Sequence[str], first: int | None) -> Sequence[Task]:
    known = {task.id: task for task in tasks}
    for name in ids:
        if name not in known:
            raise UsageError(f"no task {name!r} in this split: use one of {_some(list(known))}")
    chosen = [known[name] for name in dict.fromkeys(ids)] if ids else tasks
    return chosen[:first]


def _some(ids: Sequence[str]) -> str:
    shown = ", ".join(ids[:SHOWN_CHOICES])
    return f"{shown}, ... ({len(ids)} in all)" if len(ids) > SHOWN_CHOICES else shown


def _episode_id(environment: Environment, task: Task, *, seed: int, trial: int) -> str:
    source = environment.source.replace(":", "-")
    return f"{source}-{task.id}-{environment.agent}-{seed}-{trial}"
