"""Many ALFWorld environments at once, spread over worker processes.

What an environment does depends on the pool's seed, the environment's place and the episode's
number, and never on how many workers there are. A worker that dies or hangs costs its episodes,
which are marked, and nothing else: it is replaced.
"""

from __future__ import annotations

import os
import random
import weakref
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rwml.errors import UsageError
from rwml_adapters.alfworld.engine import EngineName
from rwml_adapters.alfworld.env import MAX_STEPS
from rwml_adapters.alfworld.games import Game
from rwml_adapters.alfworld.logic import LogicName
from rwml_adapters.alfworld.pool_workers import WORKER_DIED, PoolWorkers

RESET_TIMEOUT_S = 60.0
"""How long one reset may take (ours)."""
STEP_TIMEOUT_S = 60.0
"""How long a worker may take for a step of all its environments (ours)."""

Info = dict[str, Any]
GameFile = Game | Path | str
Games = Mapping[int, GameFile] | Sequence[GameFile]
Steps = tuple[list[str], list[float], list[bool], list[bool], list[Info]]


class _Last(NamedTuple):
    """What `step` gave last for an environment."""

    observation: str
    reward: float
    terminated: bool
    truncated: bool
    info: Info

    @property
    def is_over(self) -> bool:
        return self.terminated or self.truncated


class AlfworldPool:
    """N environments with batched `reset` and `step`.

    An environment whose episode is over stays as it is until it is reset: whatever its command,
    `step` gives its last observation and flags again, with reward 0. One pool is for one thread.

    Args:
        games: games or their files; each episode takes the next one of a seeded order.
        size: how many environments.
        workers: processes; None for one per core, at most one per environment.
        seed: of the games' order and of the environments.
        reset_timeout_s: a worker that takes longer for one reset is replaced.
        step_timeout_s: a worker that takes longer for a step of all its environments is replaced.
        engine: of each environment, as the following are: see `AlfworldEnv`.
        max_steps: see `AlfworldEnv`.
        logic: see `AlfworldEnv`.
        expert_plan: see `AlfworldEnv`.

    Raises:
        UsageError: no games, or sizes below 1.
    """

    def __init__(
        self,
        games: Iterable[GameFile],
        *,
        size: int,
        workers: int | None = None,
        seed: int = 0,
        reset_timeout_s: float = RESET_TIMEOUT_S,
        step_timeout_s: float = STEP_TIMEOUT_S,
        engine: EngineName = "fast",
        max_steps: int = MAX_STEPS,
        logic: LogicName = "installed",
        expert_plan: bool = False,
    ) -> None:
        self._games = [_path(game) for game in games]
        if not self._games:
            raise UsageError("a pool needs at least one game")
        if size < 1 or (workers is not None and workers < 1):
            raise UsageError(f"size and workers must be 1 or more, not {size} and {workers}")
        self.size = size
        self._seed = seed
        self._episodes = [0] * size
        self._last: list[_Last | None] = [None] * size
        self._workers = PoolWorkers(
            count=min(size, workers or _cores()),
            size=size,
            lose=_Losing(self._last),
            options={
                "engine": engine,
                "max_steps": max_steps,
                "logic": logic,
                "expert_plan": expert_plan,
            },
            timeouts_s={"reset": reset_timeout_s, "step": step_timeout_s},
        )
        self._close = weakref.finalize(self, self._workers.close)

    @property
    def worker_pids(self) -> list[int]:
        """Process ids of the workers."""
        return self._workers.pids

    def reset(
        self, games: Games | None = None, *, places: Iterable[int] | None = None
    ) -> tuple[list[str], list[Info]]:
        """Starts new episodes.

        Args:
            games: the game of each place; None lets each take its next one.
            places: which environments; None for all, or for those that `games` names.

        Returns:
            Observations and infos of all environments, also of those that were not reset.

        Raises:
            UsageError: a place does not exist, or one that was never reset is left out.
            RwmlError: of an environment that could not start; the others have started.
        """
        chosen = _by_place(games, range(self.size) if places is None else places)
        if wrong := [place for place in chosen if not 0 <= place < self.size]:
            raise UsageError(f"the pool has environments 0 to {self.size - 1}, no {wrong[0]}")
        episodes = {place: self._next_episode(place, game) for place, game in chosen.items()}
        answers = self._workers.reset(episodes)
        for place, answer in answers.items():
            self._last[place] = _started(answer)
        _raise_first(answers)
        current = self._current()
        return [last.observation for last in current], [last.info for last in current]

    def step(self, commands: Sequence[str | None]) -> Steps:
        """Gives each environment its command.

        Args:
            commands: one per environment; None leaves it as it is.

        Returns:
            Observations, rewards, terminated, truncated, infos. An episode that was lost with its
            worker is truncated, with ``info["worker_died"]``.

        Raises:
            UsageError: not one command per environment, or an environment was never reset.
            RwmlError: of an environment that failed; the others have made their step.
        """
        if isinstance(commands, str) or len(commands) != self.size:
            raise UsageError(f"the pool needs a command for each of {self.size} environments")
        before = self._current()
        answers = self._workers.step(
            {
                place: command
                for place, (command, last) in enumerate(zip(commands, before, strict=True))
                if command is not None and not last.is_over
            }
        )
        for place, last in enumerate(self._current()):  # not `before`: a dead worker's are marked
            answer = answers.get(place)
            if isinstance(answer, tuple):
                self._last[place] = _Last(*answer)
            elif last.reward:
                self._last[place] = last._replace(reward=0.0)
        _raise_first(answers)
        observations, rewards, terminated, truncated, infos = zip(*self._current(), strict=True)
        return list(observations), list(rewards), list(terminated), list(truncated), list(infos)

    def close(self) -> None:
        """Ends the workers and waits for them."""
        self._close()

    def __enter__(self) -> AlfworldPool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _next_episode(self, place: int, game: str | None) -> tuple[str, int]:
        """Game and seed of a place's next episode: the same whatever the others do."""
        number = self._episodes[place] * self.size + place
        self._episodes[place] += 1
        seed = random.Random(f"{self._seed}/{number}").getrandbits(31)  # noqa: S311 - no secret
        if game is None:
            round_number, position = divmod(number, len(self._games))
            order = random.Random(f"{self._seed}/order/{round_number}")  # noqa: S311 - no secret
            game = order.sample(self._games, len(self._games))[position]
        return game, seed

    def _current(self) -> list[_Last]:
        known = [last for last in self._last if last is not None]
        if len(known) < self.size:
            raise UsageError(f"environment {self._last.index(None)} has not started: call reset")
        return known


class _Losing:
    """Marks the episodes that a dead worker had; it holds no reference to the pool."""

    def __init__(self, lasts: list[_Last | None]) -> None:
        self._lasts = lasts

    def __call__(self, places: Iterable[int]) -> None:
        for place in places:
            last = self._lasts[place]
            if last is not None and not last.is_over:
                self._lasts[place] = last._replace(
                    reward=0.0, truncated=True, info={**last.info, WORKER_DIED: True}
                )


def _by_place(games: Games | None, places: Iterable[int]) -> dict[int, str | None]:
    """The game of each place to reset; None for its next one."""
    if isinstance(games, Mapping):
        return {place: _path(game) for place, game in games.items()}
    order = list(places)
    if games is None:
        return dict.fromkeys(order)
    if isinstance(games, str) or len(games) != len(order):
        raise UsageError(f"reset needs one game for each of {len(order)} environments")
    return {place: _path(game) for place, game in zip(order, games, strict=True)}


def _path(game: GameFile) -> str:
    return str(game.file if isinstance(game, Game) else game)


def _started(answer: Any) -> _Last:
    if isinstance(answer, Exception):
        return _Last("", 0.0, False, True, {})
    observation, info = answer
    return _Last(observation, 0.0, False, bool(info.get(WORKER_DIED)), dict(info))


def _raise_first(answers: dict[int, Any]) -> None:
    for answer in answers.values():
        if isinstance(answer, Exception):
            raise answer


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
