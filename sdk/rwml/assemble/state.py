"""What the assembler remembers of open trajectories, and what it counts."""

from __future__ import annotations

from dataclasses import dataclass, field

from rwml.assemble.completion import Completion
from rwml.schema import Message, Step, Trajectory

Observation = tuple[bytes, ...]
"""Digests of the messages that came back of an action."""


@dataclass(frozen=True)
class AssemblyStats:
    """What became of the completions that were added.

    Attributes:
        completions: all of them.
        failed: without a response: no step.
        duplicates: the same request and response as one before: nothing new.
        branches: responses or observations beside the one that came first; each got a trajectory.
        relinked: requests with a cut or rewritten history, linked by the tail they kept.
        ambiguous: requests whose tail fits several open actions; each started a trajectory.
        unlinked: requests whose last action is not known (recording began later, examples in the
            prompt, a history rewritten beyond recognition); each started a trajectory.
        late: actions that came after a request that answers them.
        evicted: trajectories closed to bound the memory.
        hashed: messages that were hashed.
    """

    completions: int = 0
    failed: int = 0
    duplicates: int = 0
    branches: int = 0
    relinked: int = 0
    ambiguous: int = 0
    unlinked: int = 0
    late: int = 0
    evicted: int = 0
    hashed: int = 0


@dataclass(eq=False)
class Trail:
    """An open trajectory; `step` is its last one and `tip` that step's action."""

    header: Trajectory
    step: Step
    tip: Action | None = None
    keys: list[bytes] = field(default_factory=list)
    closed: bool = False


@dataclass(eq=False)
class Action:
    """An action that was taken: its step as it was then, and the trajectory of each reply."""

    key: bytes
    tail: bytes
    step: Step
    home: Trail
    replies: dict[Observation, Trail] = field(default_factory=dict)


@dataclass(frozen=True)
class Reply:
    """What a request says came back of an action."""

    messages: tuple[Message, ...]
    digests: Observation
    failed: bool


@dataclass
class Early:
    """A reply to an action that has not come yet, and the trajectory that its request began."""

    reply: Reply
    trail: Trail | None = None


def read_reply(
    completion: Completion, digests: tuple[bytes, ...], start: int, end: int | None = None
) -> Reply:
    """The messages of a request from `start` to `end` as an observation."""
    messages = completion.messages[start:end]
    failed = any(m.role == "tool" and m.tool_call_id in completion.failed_calls for m in messages)
    return Reply(messages=messages, digests=digests[start:end], failed=failed)


def first_step(completion: Completion, response: Message) -> Step:
    """A completion as the first step of a trajectory, pending."""
    return Step(
        index=0,
        action=response,
        started_at=completion.started_at,
        latency_s=completion.latency_s,
        model=completion.model,
        usage=completion.usage,
        provenance=completion.provenance,
        metadata=completion.metadata,
    )
