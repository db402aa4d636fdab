"""tau2: a retail task with its evaluation against tau2's own runner, and what recording takes."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from tests.benchmarks.measure import ROUNDS, Result, rates

from rwml import Recorder
from rwml.environments import Episode, plan_episodes

TASKS = 8
DOMAIN = "retail"


def tau2_task_vs_stock() -> Result:
    """Retail oracle tasks per second, evaluation included, against tau2's own `run_task`."""
    environment, episodes = _episodes()
    with _stock_runner() as run_stock:
        work = [lambda e=e: run_stock(e) for e in episodes]
        return rates(
            "tau2_task_vs_stock",
            ours=lambda: _all_solved(environment.play(e).outcome.reward for e in episodes),
            baseline=lambda: _all_solved(run() for run in work),
            units=len(episodes),
            unit="tasks/s",
            rounds=3,
        )


def record_overhead_share() -> Result:
    """Share of a recorded oracle episode that recording takes, from the reply to the disk.

    All of the making of replies counts as recording, although most of it is needed without. The
    baseline is an episode without recording, so the ratio is what recording adds.
    """
    environment, episodes = _episodes()
    shares, rest = [], []
    for _ in range(ROUNDS):
        spent, total = _timed(environment, episodes)
        shares.append(100 * spent / total)
        rest.append(100 * (total - spent) / total)
    value, base = statistics.median(shares), statistics.median(rest)
    return Result(
        name="record_overhead_share", value=value, unit="%", baseline=base, ratio=value / base
    )


def _timed(environment: Any, episodes: Sequence[Episode]) -> tuple[float, float]:
    """Seconds of the processor that recording took, and seconds in all."""
    from rwml_adapters.tau2 import agent
    from rwml_adapters.tau2 import episodes as played

    clock = _Clock()
    with (
        tempfile.TemporaryDirectory() as folder,
        mock.patch.object(agent, "to_reply", clock.timed(agent.to_reply)),
        mock.patch.object(
            played,
            "trajectory_from_simulation",
            clock.timed(played.trajectory_from_simulation),
        ),
        Recorder(store=f"sqlite:///{Path(folder) / 'rwml.db'}") as recorder,
    ):
        started = time.process_time()
        trajectories = [environment.play(episode) for episode in episodes]
        clock.timed(lambda: _write(recorder, trajectories))()
        return clock.seconds, time.process_time() - started


def _write(recorder: Recorder, trajectories: Sequence[Any]) -> None:
    for trajectory in trajectories:
        recorder.record(trajectory)
    if not recorder.flush(60):
        raise RuntimeError(f"not everything was written: {recorder.stats}")


class _Clock:
    """Sums the time that functions take, of all threads: the recorder's writer counts too."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def timed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            started = time.process_time()
            try:
                return function(*args, **kwargs)
            finally:
                self.seconds += time.process_time() - started

        return call


def _episodes() -> tuple[Any, list[Episode]]:
    from rwml_adapters.tau2.environment import tau2

    environment = tau2(domain=DOMAIN, policy="oracle")
    return environment, plan_episodes(environment, split="test", first=TASKS)


@contextmanager
def _stock_runner() -> Iterator[Callable[[Episode], float]]:
    """tau2's own runner with the same agent and the same user."""
    from tau2.registry import registry
    from tau2.run import run_task

    from rwml_adapters.tau2.agent import agent_class
    from rwml_adapters.tau2.containment import contained
    from rwml_adapters.tau2.domains import get_domain
    from rwml_adapters.tau2.graphs import policy_graph
    from rwml_adapters.tau2.package import load_tasks
    from rwml_adapters.tau2.scripted import scripted_policy
    from rwml_adapters.tau2.user import ScriptedUser

    domain = get_domain(DOMAIN)
    tasks = {task.id: task for task in load_tasks(DOMAIN, "test")}
    current: list[Any] = []

    class User(ScriptedUser):
        def __init__(self, **_: Any) -> None:
            task = current[-1]
            super().__init__(
                instructions=task.user_scenario.instructions,
                actions=task.evaluation_criteria.actions or (),
            )

    def graph(*_: Any) -> Any:
        return policy_graph(scripted_policy(current[-1], domain, error_rate=0, seed=0))

    def run(episode: Episode) -> float:
        current.append(tasks[episode.task.id])
        with contained():
            done = run_task(
                domain=DOMAIN, task=current[-1], agent="rwml", user="rwml", seed=episode.seed,
                llm_agent="none", llm_args_agent={}, llm_user="none", llm_args_user={},
            )  # fmt: skip
        return done.reward_info.reward if done.reward_info else 0.0

    agents = {"rwml": agent_class(graph, name="rwml", tool_nodes=())}
    with (
        mock.patch.object(registry, "_agents", agents),
        mock.patch.object(registry, "_users", {"rwml": User}),
    ):
        yield run


def _all_solved(rewards: Iterator[float | None]) -> None:
    if any(reward != 1.0 for reward in rewards):
        raise RuntimeError("the oracle did not solve every task")
