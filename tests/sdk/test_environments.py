"""The runner: what is played and in which order, faults, threads, and what a stop leaves behind."""

import importlib.util
import threading
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rwml import Trajectory, open_store
from rwml.environments import Episode, episode_seed, plan_episodes, run_episodes
from rwml.environments.results import count, result_of
from rwml.environments.resuming import find_recorded
from rwml.environments.running import STAMP
from rwml.errors import MissingExtraError, UsageError


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "toy_environment", Path(__file__).parent / "toy_environment.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


Toy = load().Toy


def test_every_task_comes_once_before_any_comes_twice() -> None:
    episodes = plan_episodes(Toy(), first=3, trials=2, seed=5)
    assert [(e.task.id, e.trial) for e in episodes] == [
        ("t0", 0), ("t1", 0), ("t2", 0), ("t0", 1), ("t1", 1), ("t2", 1),
    ]  # fmt: skip
    assert [e.id for e in episodes][:2] == ["toy-t0-coin-5-0", "toy-t1-coin-5-0"]
    assert {e.max_steps for e in episodes} == {5}
    assert {e.task.split for e in episodes} == {"train"}
    assert len({e.seed for e in episodes}) == 6
    assert [e.seed for e in plan_episodes(Toy(), first=1, seed=5)] == [episodes[0].seed]


@given(st.integers(), st.text(), st.integers(0, 100))
def test_a_seed_fits_everybody(seed: int, task: str, trial: int) -> None:
    found = episode_seed(seed, task, trial)
    assert 0 <= found < 2**31
    assert found == episode_seed(seed, task, trial)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"split": "dev"}, "no split 'dev' in toy: use one of train, test"),
        ({"task_ids": ["t1", "x"]}, r"no task 'x' in this split: use one of t0, t1, .*t9$"),
        ({"first": 0}, "--tasks must be 1 or more, not 0"),
        ({"trials": 0}, "--trials must be 1 or more, not 0"),
        ({"max_steps": -1}, "--max-steps must be 1 or more, not -1"),
    ],
)
def test_wrong_plans_are_refused(arguments: dict, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        plan_episodes(Toy(), **arguments)


def test_many_choices_are_cut_short() -> None:
    with pytest.raises(UsageError, match=r"t9, \.\.\. \(200 in all\)"):
        plan_episodes(Toy(tasks=200), task_ids=["x"])
    with pytest.raises(UsageError, match="no task in this split"):
        plan_episodes(Toy(tasks=0))


def test_named_tasks_are_played_in_the_order_given_each_once() -> None:
    episodes = plan_episodes(Toy(), task_ids=["t3", "t1", "t3"])
    assert [e.task.id for e in episodes] == ["t3", "t1"]


@pytest.mark.parametrize("concurrency", [1, 3, 50])
def test_every_episode_ends_once_and_the_same_however_many_run(concurrency: int) -> None:
    toy = Toy()
    episodes = plan_episodes(toy, trials=2)
    ended = {f.episode.id: f for f in run_episodes(toy, episodes, concurrency=concurrency)}
    assert set(ended) == {e.id for e in episodes}
    assert len(toy.played) == len(episodes)
    alone = {f.episode.id: f for f in run_episodes(Toy(), episodes)}
    for id_, finished in ended.items():
        assert finished.trajectory.steps == alone[id_].trajectory.steps
        assert finished.trajectory.outcome == alone[id_].trajectory.outcome
        assert finished.attempts == 1


def test_one_at_a_time_keeps_the_order() -> None:
    toy = Toy()
    episodes = plan_episodes(toy)
    assert [f.episode.id for f in run_episodes(toy, episodes)] == [e.id for e in episodes]


def test_a_trajectory_says_which_trial_it_was() -> None:
    (finished,) = run_episodes(Toy(), plan_episodes(Toy(), first=1, max_steps=2))
    assert finished.trajectory.metadata[STAMP] == {"trial": 0, "max_steps": 2, "steps": 2}
    assert finished.trajectory.started_at is not None
    assert finished.trajectory.outcome.status == "truncated"


def test_a_fault_is_tried_again() -> None:
    toy = Toy(flaky=2)
    (finished,) = run_episodes(toy, plan_episodes(toy, first=1), retries=2, pause_s=0)
    assert (finished.attempts, finished.trajectory.outcome.status) == (3, "completed")


def test_a_task_that_raises_ends_itself_alone() -> None:
    toy = Toy(fail=("t2",))
    results = [
        result_of(f.trajectory, f.episode)
        for f in run_episodes(toy, plan_episodes(toy), retries=1, pause_s=0)
    ]
    (fault,) = [result for result in results if result.is_fault]
    assert (fault.task, fault.success, fault.reward, fault.steps) == ("t2", None, None, 0)
    assert fault.reason is not None
    assert fault.reason.startswith("ConnectionError: the mint is closed: api_key=")
    assert "sk-aaaa" not in fault.reason
    assert toy.attempts[fault.id] == 2
    counts = count(results)
    assert counts["infrastructure_errors"] == 1
    assert counts["statuses"] == {"completed": 9, "infrastructure_error": 1}
    judged = [result.success for result in results if result.success is not None]
    assert counts["success_rate"] == sum(judged) / 9


class Returns:
    """Returns what it is told to, instead of playing."""

    def __init__(self, make: object) -> None:
        self.make = make

    def __getattr__(self, name: str) -> object:
        return getattr(Toy(), name)

    def play(self, episode: Episode) -> object:
        return self.make(Toy().play(episode))  # type: ignore[operator]


def exits(_: object) -> None:
    raise SystemExit(7)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda played: played.model_copy(update={"id": "other"}), "the id 'other', not"),
        (lambda played: None, "returned NoneType, not a Trajectory"),
        (exits, "SystemExit: 7"),
    ],
)
def test_what_is_no_trajectory_of_the_episode_is_a_fault(make: object, words: str) -> None:
    environment = Returns(make)
    (finished,) = run_episodes(environment, plan_episodes(Toy(), first=1), retries=0)  # type: ignore[arg-type]
    assert words in (result_of(finished.trajectory, finished.episode).reason or "")


def test_a_missing_package_ends_the_run_at_once() -> None:
    toy = Toy(missing=True)
    with pytest.raises(MissingExtraError):
        list(run_episodes(toy, plan_episodes(toy)))
    assert len(toy.played) == 1


class Gated(Toy):
    """Plays only when it is let through."""

    def __init__(self, tasks: int) -> None:
        super().__init__(tasks=tasks)
        self.gate = threading.Semaphore(0)

    def play(self, episode: Episode) -> Trajectory:
        assert self.gate.acquire(timeout=60)
        return super().play(episode)


def test_stopping_begins_no_further_episode() -> None:
    toy = Gated(tasks=500)
    run = run_episodes(toy, plan_episodes(toy), concurrency=2)
    toy.gate.release()
    next(run)
    run.close()
    toy.gate.release(500)
    for thread in threading.enumerate():
        if thread.name.startswith("rwml-episodes-"):
            thread.join(10)
    assert len(toy.played) <= 3, "the one that was asked for, and what two threads had begun"
    assert next(run, None) is None


@pytest.mark.parametrize("arguments", [{"concurrency": 0}, {"retries": -1}])
def test_numbers_that_cannot_be_are_refused(arguments: dict) -> None:
    with pytest.raises(UsageError):
        run_episodes(Toy(), plan_episodes(Toy()), **arguments)


def test_a_store_knows_which_episodes_it_has_in_full(tmp_path: Path) -> None:
    toy = Toy(fail=("t1",))
    episodes = plan_episodes(toy, first=4)
    with open_store(f"sqlite:///{tmp_path / 'rwml.db'}") as store:
        assert find_recorded(store, toy, episodes) == {}
        for finished in run_episodes(toy, episodes, retries=0):
            trajectory = finished.trajectory
            if finished.episode.task.id == "t2":  # a program was killed in the middle of it
                trajectory = trajectory.model_copy(update={"steps": trajectory.steps[:1]})
            store.add(trajectory)
        found = find_recorded(store, toy, episodes)
        assert [result.task for result in found.values()] == ["t0", "t3"]
        with pytest.raises(UsageError, match="with version 1, not 2: record into another store"):
            find_recorded(store, Toy(version="2"), episodes)
        with pytest.raises(UsageError, match="with max_steps 5, not 3"):
            find_recorded(store, toy, plan_episodes(toy, first=4, max_steps=3))
