"""The conformance suite of environments: what the runner relies on, checked on real episodes.

Every environment of ours passes it; run it on yours. It plays a few episodes, so give it an agent
that needs no LLM. A broken promise is an AssertionError that says which one.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace

from rwml.environments import Environment, Episode, Summarizes, plan_episodes
from rwml.errors import UsageError
from rwml.recorder import Recorder
from rwml.schema import Trajectory
from rwml.testing.recording import recorded
from rwml.testing.stores import memory_store

_NO_SPLIT = "no-such-split"


def check_environment(
    make: Callable[[], Environment],
    *,
    split: str | None = None,
    tasks: int = 2,
    deterministic: bool = True,
) -> None:
    """Checks that an environment keeps the contract (`rwml.environments.Environment`).

    Args:
        make: makes it, as its factory does with options of your choice.
        split: whose tasks are played; None for the first.
        tasks: how many of them.
        deterministic: whether an episode that is played again is the same, as it is without an
            LLM. Only then two threads can be checked to keep out of each other's way.

    Raises:
        AssertionError: a promise is broken; it says which.
    """
    with closing(make()) as environment:
        _check_description(environment)
        _check_splits(environment)
        episodes = plan_episodes(environment, split=split, first=tasks, trials=2)
        state = random.getstate()
        alone = [_play(environment, episode) for episode in episodes]
        _expect(random.getstate() == state, "it leaves the random module's state as it was")
        if deterministic:
            with ThreadPoolExecutor(2) as threads:
                together = list(threads.map(environment.play, episodes))
            for one, other in zip(alone, together, strict=True):
                _check_same(one, other)
        _check_limit(environment, episodes[0], alone[0] if deterministic else None)
        _check_recording(alone)
        _check_summary(environment, alone)
    with closing(make()) as second:
        ids = [task.id for task in second.tasks(split or second.splits[0])]
        played = [episode.task.id for episode in episodes[: len(episodes) // 2]]
        _expect(ids[: len(played)] == played, "a second one has the same tasks in the same order")


def _check_description(environment: Environment) -> None:
    for name in ("source", "agent"):
        _expect(bool(getattr(environment, name).strip()), f"it has a name for its {name}")
    _expect(environment.default_max_steps >= 1, "its default_max_steps is 1 or more")
    found = environment.fingerprint()
    _expect(bool(found.package and found.version), "its fingerprint has package and version")
    _expect(bool(found.agent), "its fingerprint names its agent")
    _expect(found.seed is None, "its fingerprint has no seed: episodes have")


def _check_splits(environment: Environment) -> None:
    splits = list(environment.splits)
    _expect(bool(splits) and len(set(splits)) == len(splits), "it has splits, each once")
    for split in splits:
        ids = [task.id for task in environment.tasks(split)]
        _expect(bool(ids), f"split {split!r} has tasks")
        _expect(len(set(ids)) == len(ids), f"split {split!r} has every task once")
        again = [task.id for task in environment.tasks(split)]
        _expect(ids == again, f"split {split!r} has its tasks in the same order every time")
    try:
        environment.tasks(_NO_SPLIT)
    except UsageError as error:
        _expect(any(split in str(error) for split in splits), "an unknown split's error names some")
        _expect("\n" not in str(error), "an unknown split's error is one line")
    else:
        raise AssertionError("broken promise: tasks() of an unknown split raises UsageError")


def _play(environment: Environment, episode: Episode) -> Trajectory:
    played = environment.play(episode)
    what = f"the trajectory of task {episode.task.id}"
    outcome = played.outcome
    _expect(
        outcome.status in ("completed", "truncated"),
        f"{what} is completed or truncated, not {outcome.status} ({outcome.breakdown})",
    )
    _expect(played.id == episode.id, f"{what} has the episode's id")
    _expect(played.source == environment.source, f"{what} has the environment's source")
    _expect(played.task_id == episode.task.id, f"{what} has the task's id")
    _expect(played.split == episode.task.split, f"{what} has the task's split")
    expected = environment.fingerprint()
    for name in ("package", "version", "data_version", "agent"):
        same = getattr(played.fingerprint, name) == getattr(expected, name)
        _expect(same, f"{what} has the environment's fingerprint: {name}")
    _expect(played.fingerprint.seed == episode.seed, f"{what} has the episode's seed")
    _check_steps(played, episode, what)
    return played


def _check_steps(played: Trajectory, episode: Episode, what: str) -> None:
    _expect(bool(played.initial), f"{what} has what the agent saw first")
    _expect(0 < len(played.steps) <= episode.max_steps, f"{what} has 1 to max_steps steps")
    for place, step in enumerate(played.steps):
        _expect(step.index == place, f"{what} has its steps numbered from 0")
        _expect(step.action.role == "assistant", f"{what} has assistant messages as actions")
        _expect(step.orphans() == 0, f"{what} has tool results that answer calls of their step")
        is_last = place == len(played.steps) - 1
        _expect(is_last or step.is_complete, f"{what} says what came back of step {place}")
    _expect(any(step.is_complete for step in played.steps), f"{what} has a transition")


def _check_limit(environment: Environment, episode: Episode, whole: Trajectory | None) -> None:
    cut = environment.play(replace(episode, max_steps=1))
    _expect(len(cut.steps) <= 1, "an episode of max_steps=1 has one step")
    if whole is not None and len(whole.steps) > 1:
        _expect(cut.outcome.status == "truncated", "an episode that is cut short is truncated")


def _check_same(one: Trajectory, other: Trajectory) -> None:
    what = f"task {one.task_id} with one seed"
    _expect(_gist(one) == _gist(other), f"{what} is the same again, and beside another thread")


def _gist(played: Trajectory) -> list[object]:
    """What was done and came back, without ids and times."""
    gist: list[object] = [played.outcome.success, played.outcome.reward]
    for step in played.steps:
        calls = [(call.name, call.arguments_text) for call in step.action.tool_calls]
        gist.append((step.action.content, calls, [m.content for m in step.ordered_observation()]))
    return gist


def _check_recording(played: Sequence[Trajectory]) -> None:
    with memory_store() as store, Recorder(store=store, redact=None) as recorder:
        for trajectory in (*played, *played):
            recorder.record(trajectory)
        stored = {trajectory.id: trajectory for trajectory in recorded(recorder)}
    _expect(len(stored) == len(played), "recording an episode again updates it")
    for trajectory in played:
        same = stored[trajectory.id] == trajectory
        _expect(same, f"{trajectory.id} comes out of a store as it went in")


def _check_summary(environment: Environment, played: Sequence[Trajectory]) -> None:
    if isinstance(environment, Summarizes):
        summary = environment.summarize(played)
        try:
            json.dumps(summary, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise AssertionError(f"broken promise: its summary is JSON: {error}") from error


def _expect(kept: bool, promise: str) -> None:
    if not kept:
        raise AssertionError(f"broken promise: {promise}")
