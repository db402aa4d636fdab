"""What an environment is to rwml: tasks, and a way to play one of them from start to end.

Whoever fulfils `Environment` and announces a factory in the entry-point group
``rwml.environments`` gets ``rwml record NAME`` and ``rwml eval NAME``: order, seeds, threads,
retries, resuming, recording and statistics are the runner's. An environment must not record by
itself, retry, or count. Source: ours.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from pydantic import JsonValue

from rwml.schema import Fingerprint, Trajectory


@dataclass(frozen=True, kw_only=True)
class Task:
    """One task of a split.

    Attributes:
        id: unique in its environment, the same on every machine.
        split: it belongs to.
        kind: task type or domain, by which results are broken down; None for one kind only.
    """

    id: str
    split: str | None = None
    kind: str | None = None


@dataclass(frozen=True, kw_only=True)
class Episode:
    """One attempt at a task, as the runner asks for it.

    Attributes:
        task: to be played.
        trial: number of the attempt, from 0.
        seed: of everything random in it, 31 bits; follows from run seed, task and trial.
        max_steps: of the agent; an episode that reaches it ends ``truncated``.
        id: of the trajectory, the same when the episode is run again.
    """

    task: Task
    trial: int
    seed: int
    max_steps: int
    id: str


class Environment(Protocol):
    """Tasks of one benchmark or tool, with the agent that acts in them."""

    @property
    def source(self) -> str:
        """Of its trajectories, such as ``tau2:retail``."""
        ...

    @property
    def splits(self) -> Sequence[str]:
        """Its splits; the first is taken where none is named."""
        ...

    @property
    def default_max_steps(self) -> int:
        """Steps of the agent in an episode, where nothing else is said."""
        ...

    @property
    def agent(self) -> str:
        """Name of who acts, part of the trajectories' ids.

        What changes how it acts (model, temperature, error rate) belongs in it, so that two
        different agents never share an id.
        """
        ...

    def tasks(self, split: str) -> Sequence[Task]:
        """The tasks of a split, always in the same order.

        Raises:
            UsageError: there is no such split, or its data is missing; it says what to do.
        """
        ...

    def fingerprint(self) -> Fingerprint:
        """Package, version, data version, agent and user simulator, without a seed."""
        ...

    def play(self, episode: Episode) -> Trajectory:
        """Plays a whole episode, and says how it ended; called from several threads.

        A failure of the agent is an outcome. A fault of the infrastructure (endpoint, simulator,
        evaluator) is any exception, or a trajectory whose outcome is ``infrastructure_error``,
        which keeps the steps so far; both are tried again, and never count as a failure.
        """
        ...

    def close(self) -> None:
        """Gives back what it holds; episodes may still be running when the user interrupts."""
        ...


@runtime_checkable
class Summarizes(Protocol):
    """An environment with figures of its own in the report of an evaluation."""

    def summarize(self, trajectories: Sequence[Trajectory]) -> dict[str, JsonValue]:
        """Figures over the trajectories that ended without an infrastructure error."""
        ...


Factory = Callable[..., Environment]
"""Makes an environment; its keyword-only parameters, annotated for typer, become options."""
