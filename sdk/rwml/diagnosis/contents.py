"""What the store itself says: what it holds, what is missing, and whether that is enough."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.util import find_spec
from itertools import islice

from rwml.content import is_real
from rwml.diagnosis.findings import Finding
from rwml.errors import StoreError
from rwml.schema import NOT_RECORDED_KEY, Step, Transition
from rwml.sightings import INNER_SOURCES, Sightings
from rwml.statistics import MIN_CLUSTERS
from rwml.store import Counts, Store

SAMPLE = 1000
"""Trajectories that are read in full at most (ours)."""
HELD_OUT_SHARE = 0.1
"""Share of the tasks that `rwml build` holds out by default."""


def look_at_contents(store: Store, counts: Counts) -> Iterator[Finding]:
    """What a store holds, and why not more.

    Args:
        store: an open store.
        counts: of it.

    Raises:
        StoreError: it cannot be read.
    """
    try:
        sample = _read_sample(store)
    except StoreError as error:
        text = f"what is stored cannot be read: {error}"
        yield Finding("unreadable", "error", text, "upgrade rwml, or restore the store")
        return
    yield from _look_at_steps(counts, sample)
    yield from _look_at_transitions(counts, sample)
    yield from _look_at_pairs(counts)
    if sample.twins:
        yield Finding(
            "recorded_twice",
            "warning",
            f"{sample.twins} transitions were recorded by a client and by the gateway it called: "
            "'rwml build' takes the client's",
            "set RWML_GATEWAY to the gateway's URL where the client runs, see docs/litellm.md",
        )
    yield from _look_at_training(counts, sample)


@dataclass
class _Sample:
    """What the first trajectories are made of.

    Attributes:
        is_all: whether the store has no more.
        steps: how many.
        answers: pending steps that call no tool: they wait for a user.
        calls: pending steps that wait for tool results.
        hidden: steps of which something was left out by an opt-out, so that they make none.
        unreal: steps that a world model answered, or whose call was held back.
        groups: tasks, else threads, else trajectories that have a transition: what `rwml build`
            keeps on one side of its split.
        twins: transitions that were recorded twice.
    """

    is_all: bool = True
    steps: int = 0
    answers: int = 0
    calls: int = 0
    hidden: int = 0
    unreal: int = 0
    groups: set[str] = field(default_factory=set)
    twins: int = 0

    def add(self, step: Step, group: str) -> None:
        self.steps += 1
        if step.status == "pending":
            self.calls += bool(step.action.tool_calls)
            self.answers += not step.action.tool_calls
        self.hidden += bool(step.observation) and NOT_RECORDED_KEY in step.metadata
        self.unreal += not all(is_real(message.content) for message in step.observation)
        if step.is_complete:
            self.groups.add(group)


def _read_sample(store: Store) -> _Sample:
    sample = _Sample()
    seen, inner = Sightings(), list[Transition]()
    read = 0
    for trajectory in islice(store.trajectories(), SAMPLE):
        read += 1
        thread = trajectory.metadata.get("thread_id")
        name = trajectory.task_id or (str(thread) if thread else trajectory.id)
        for step in trajectory.steps:
            sample.add(step, f"{trajectory.source}/{name}")
        for transition in trajectory.transitions(history=0):
            seen.note(transition)
            if transition.source in INNER_SOURCES:
                inner.append(transition.model_copy(update={"context": ()}))
    sample.twins = sum(map(seen.has_twin_of, inner))
    sample.is_all = read < SAMPLE
    return sample


def _look_at_steps(counts: Counts, sample: _Sample) -> Iterator[Finding]:
    if not counts.trajectories:
        yield Finding(
            "trajectories",
            "error",
            "no trajectory was ever written to this store",
            "record an agent: call rwml.instrument() before it runs, or pass the handler in its "
            "config ({'callbacks': [...]}), or try 'rwml record tau2'. A process that is killed "
            "at once, or that ends by os._exit, needs recorder.flush() before",
        )
    elif sample.is_all and not sample.steps:
        yield Finding(
            "steps",
            "error",
            f"{counts.trajectories} trajectories, but no step in any: no model's answer was seen",
            "the process was killed before its model answered, or the model was called past "
            "LangChain and LiteLLM: record it by hand with rwml.Recorder",
        )


def _look_at_transitions(counts: Counts, sample: _Sample) -> Iterator[Finding]:
    if counts.transitions:
        text = f"{counts.transitions} transitions"
        waiting = f"; {counts.pending} steps wait for what comes next" if counts.pending else ""
        yield Finding("transitions", "ok", text + waiting)
        if counts.transitions == counts.errors:
            yield Finding(
                "errors", "warning", "every next state is an error", "see one with 'rwml show'"
            )
        return
    if sample.hidden:
        yield Finding(
            "opt_outs",
            "error",
            f"{sample.hidden} steps came back, but of tools that were opted out: none is to learn",
            "opt fewer tools out: RWML_SKIP_TOOLS, or Capture(skip_tools=...)",
        )
    if sample.unreal:
        yield Finding(
            "unreal",
            "error",
            f"{sample.unreal} steps were answered by a world model, or their call was held back: "
            "none is to learn",
            "record the agent with its real tools: without SimulatedEnv, and with look-aheads in "
            "the mode 'shadow'",
        )
    if sample.answers and not sample.calls:
        yield Finding(
            "pending",
            "error",
            f"{counts.pending} steps, all waiting: each is an answer to a user, whose next message "
            "is the next state",
            "go on with the same thread: the same thread_id and a checkpointer, or the whole "
            "history in the next request. An agent without tools that is asked once has no next "
            "state",
        )
    elif counts.pending:
        yield Finding(
            "pending",
            "error",
            f"{counts.pending} steps, all waiting: the tools' results were never seen",
            "the process ended before its tools did, or they ran where no recorder was: let the "
            "agent send their results in its next request, or record in that process too",
        )
    elif counts.interrupted:
        yield Finding(
            "interrupted",
            "error",
            f"{counts.interrupted} steps, all interrupted before anything came back",
            "resume their threads",
        )


def _look_at_pairs(counts: Counts) -> Iterator[Finding]:
    if counts.orphans:
        yield Finding(
            "orphans",
            "warning",
            f"{counts.orphans} tool results answer no recorded call, or steps without a trajectory",
            "recording began in the middle of a conversation, the history was cut between a call "
            "and its result, or a tool's result carries no tool_call_id",
        )


def _look_at_training(counts: Counts, sample: _Sample) -> Iterator[Finding]:
    if counts.transitions and sample.is_all:
        yield from _look_at_split(len(sample.groups))
    if find_spec("sentence_transformers") is None:
        yield Finding(
            "encoder",
            "ok",
            "no embedding encoder is installed here: recording needs none, training does",
            "install 'rwml[train]' where you train",
        )


def _look_at_split(groups: int) -> Iterator[Finding]:
    wanted = round(MIN_CLUSTERS / HELD_OUT_SHARE)
    if groups < 2:
        yield Finding(
            "split",
            "warning",
            "all transitions are of one task or thread: 'rwml build' has to hold one of two out",
            "record more tasks or threads",
        )
    elif groups < wanted:
        yield Finding(
            "split",
            "ok",
            f"{groups} tasks or threads: enough to train, too few to prove anything",
            f"with about {wanted}, a tenth of which is held out, an evaluation can tell",
        )
