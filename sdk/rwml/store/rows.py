"""How the models become rows of the store's tables, and rows become models again."""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import ValidationError

from rwml.errors import StoreError
from rwml.redaction import describe
from rwml.schema import Step, Trajectory

_Model = TypeVar("_Model", Trajectory, Step)


def trajectory_row(trajectory: Trajectory) -> dict[str, Any]:
    """The row of a trajectory; its steps are not looked at."""
    return {
        "id": trajectory.id,
        "source": trajectory.source,
        "task_id": trajectory.task_id,
        "split": trajectory.split,
        "status": trajectory.outcome.status,
        "reward": trajectory.outcome.reward,
        "body": trajectory.model_dump_json(exclude={"steps"}, exclude_defaults=True),
    }


def step_row(trajectory_id: str, step: Step) -> dict[str, Any]:
    """The row of a step."""
    return {
        "trajectory_id": trajectory_id,
        "step_index": step.index,
        "attempt": step.attempt,
        "kind": step.kind if step.observation else None,
        "status": step.status,
        "orphans": step.orphans(),
        "body": step.model_dump_json(exclude_defaults=True),
    }


def load(model: type[_Model], body: str, owner: str) -> _Model:
    """The model of a row's body.

    Args:
        owner: id of its trajectory, for the message.

    Raises:
        StoreError: it does not fit the schema.
    """
    try:
        return model.model_validate_json(body)
    except ValidationError as error:  # which quotes what was recorded, so it is not kept
        reason = describe(error)
    raise StoreError(f"trajectory {owner} does not fit the schema: {reason}")
