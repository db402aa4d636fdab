"""What is kept of an episode that has ended, and the figures that follow from a run's results.

A result is small, so that a long run's results fit in memory. An infrastructure error counts
neither as success nor as failure, and what nobody judged has no score. Source: ours.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

from pydantic import JsonValue

from rwml.content import well_formed
from rwml.environments.contract import Episode
from rwml.environments.running import FAULT
from rwml.schema import OutcomeStatus, Trajectory


@dataclass(frozen=True, kw_only=True)
class Result:
    """How one episode ended.

    Attributes:
        id: of its trajectory.
        task: id of the task.
        kind: the task's type or domain.
        trial: number of the attempt at the task, from 0.
        status: of the outcome.
        success: None where nobody judged it, and after an infrastructure error.
        reward: the environment's own; None where there is none.
        steps: the agent took.
        transitions: steps whose next state is known.
        errors: those whose answer is an error.
        reason: of an infrastructure error.
    """

    id: str
    task: str
    kind: str | None
    trial: int
    status: OutcomeStatus
    success: bool | None
    reward: float | None
    steps: int
    transitions: int
    errors: int
    reason: str | None = None

    @property
    def is_fault(self) -> bool:
        """Whether the infrastructure ended it."""
        return self.status == FAULT

    def to_json(self) -> dict[str, JsonValue]:
        """As it stands in results and reports."""
        return asdict(self)


def result_of(trajectory: Trajectory, episode: Episode) -> Result:
    """What is kept of an episode, however it was played or stored."""
    outcome = trajectory.outcome
    is_fault = outcome.status == FAULT
    reward = outcome.reward
    known = list(trajectory.transitions(history=0))
    return Result(
        id=episode.id,
        task=episode.task.id,
        kind=episode.task.kind,
        trial=episode.trial,
        status=outcome.status,
        success=None if is_fault else outcome.success,
        reward=None if is_fault or reward is None or not math.isfinite(reward) else reward,
        steps=len(trajectory.steps),
        transitions=len(known),
        errors=sum(step.status == "error" for step in known),
        reason=_reason(trajectory) if is_fault else None,
    )


def count(results: Sequence[Result]) -> dict[str, JsonValue]:
    """The counts that every report of a run has."""
    judged = [result.success for result in results if result.success is not None]
    return {
        "tasks": len({result.task for result in results}),
        "judged": len(judged),
        "success_rate": sum(judged) / len(judged) if judged else None,
        "statuses": dict(Counter(result.status for result in results)),
        "infrastructure_errors": sum(result.is_fault for result in results),
    }


def in_order(results: Iterable[Result], ids: Sequence[str]) -> list[Result]:
    """Results in the order in which their episodes were planned, whatever ended first."""
    place = {id_: number for number, id_ in enumerate(ids)}
    return sorted(results, key=lambda result: place[result.id])


def _reason(trajectory: Trajectory) -> str:
    breakdown = trajectory.outcome.breakdown
    kind, reason = breakdown.get("error_type", "error"), breakdown.get("reason", "no reason given")
    return well_formed(f"{kind}: {reason}")
