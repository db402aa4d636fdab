"""What integrations give to a recorder: a trajectory's header, or one step of it.

Plain tuples, as many are made in the agent's process. `digest` and `tail` are keyed hashes made by
`rwml.assemble.Hasher` before redaction: they let a later run, in this process or another, find the
action that it answers. They hold no text, and go when the step is complete.
"""

from __future__ import annotations

from typing import NamedTuple

from rwml.schema import Message, Step, Trajectory


class Continuation(NamedTuple):
    """What the messages of a new trajectory's first request say of an action before it.

    Attributes:
        digest: names the last action by its whole history; None where that cannot be told.
        tail: names it by thread, system prompt and itself, for histories that were cut.
        observation: the messages after that action.
        failed: whether one of them is the error of a tool.
    """

    digest: bytes | None
    tail: bytes | None
    observation: tuple[Message, ...]
    failed: bool = False


class HeaderRecord(NamedTuple):
    """A trajectory; its `steps` are not looked at.

    Attributes:
        trajectory: written over an earlier header of the same id.
        length: how many steps it has, if that is all: earlier ones beyond that are removed. None
            leaves steps as they are.
        continues: for a new trajectory only: where the store holds this very action as pending,
            the action gets its observation, and what is recorded under the new id goes on there.
    """

    trajectory: Trajectory
    length: int | None = None
    continues: Continuation | None = None


class StepRecord(NamedTuple):
    """A step; the same index and attempt again replaces it.

    Attributes:
        trajectory_id: whose step it is.
        step: as it is now.
        digest: names the action; looked for by `Continuation.digest` while the step is pending.
        tail: as `digest`, for `Continuation.tail`.
    """

    trajectory_id: str
    step: Step
    digest: bytes | None = None
    tail: bytes | None = None


Record = HeaderRecord | StepRecord
