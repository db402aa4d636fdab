"""What the assembler remembers of open trajectories, and what it counts."""

from __future__ import annotations

from dataclasses import dataclass, field

from rwml.assemble.completion import Caller, Completion, ToolResult
from rwml.schema import Message, Step, StepStatus, Trajectory

Observation = tuple[bytes, ...]
"""Digests of the messages that came back of an action."""
Name = tuple[object, ...]
"""What an action is known by: the kind of name, then the name."""
ACTION_BYTES = 3_000
"""What an action takes in memory besides its texts, roughly (ours)."""


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
        orphans: tool results that answer no open action, or it cannot be told which.
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
    orphans: int = 0


@dataclass(eq=False, slots=True)
class Trail:
    """An open trajectory; `step` is its last one and `tip` that step's action.

    Attributes:
        names: by which its actions are known as long as it is open, with their numbers.
        size: bytes that it keeps alive, roughly.
    """

    header: Trajectory
    step: Step
    tip: Action | None = None
    names: list[tuple[list[Name], int]] = field(default_factory=list)
    closed: bool = False
    size: int = 0


@dataclass(eq=False, slots=True)
class Action:
    """An action that was taken: its step as it was then, and the trajectory of each reply.

    Attributes:
        request: digest of the request that it answers.
        results: what tools said before the next request did, by the call they answer.
        agent: names agent and thread, for an answer to which a user may reply without the history.
        number: unlike that of every other action of the assembler.
        parent: number of the action that its request answers; None where that was not known.
    """

    number: int
    parent: int | None
    key: bytes
    tail: bytes
    step: Step
    home: Trail
    request: bytes
    thread_id: str | None
    caller: Caller
    agent: bytes | None = None
    replies: dict[Observation, Trail] = field(default_factory=dict)
    results: dict[str, ToolResult] = field(default_factory=dict)

    @property
    def checkpoint_ns(self) -> str | None:
        """LangGraph's name of the place where the action was taken."""
        return None if self.step.provenance is None else self.step.provenance.checkpoint_ns

    def observed(self, status: StepStatus | None = None) -> Step:
        """The step with what tools said so far; pending until every call has its result."""
        order = [call.id for call in self.step.action.tool_calls]
        results = [self.results[name] for name in order if name in self.results]
        if status is None:
            waits = len(results) < len(order)
            failed = any(result.failed for result in results)
            status = "pending" if waits else "error" if failed else "ok"
        observation = tuple(result.message for result in results)
        kind = "tool" if observation else None
        return self.step.model_copy(
            update={"observation": observation, "kind": kind, "status": status}
        )

    def is_answered_by(self, reply: Reply) -> bool:
        """Whether the tools said exactly this already."""
        if len(self.results) != len(reply.digests):
            return False
        said = {result.digest for result in self.results.values()}
        failed = any(result.failed for result in self.results.values())
        return said == set(reply.digests) and failed == reply.failed


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


def new_step(completion: Completion, response: Message, *, index: int = 0) -> Step:
    """A completion as a step, pending; by default the first of its trajectory."""
    return Step(
        index=index,
        action=response,
        started_at=completion.started_at,
        latency_s=completion.latency_s,
        model=completion.model,
        usage=completion.usage,
        provenance=completion.provenance,
        metadata=completion.metadata,
    )
