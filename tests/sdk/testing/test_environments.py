"""The conformance suite passes what keeps the contract, and names each promise that is broken."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rwml.schema import Fingerprint
from rwml.testing import check_environment

ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def paths(monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in ("tests/sdk", "examples/custom_environment"):
        monkeypatch.syspath_prepend(ROOT / folder)


def test_the_toy_and_the_example_pass() -> None:
    from shop import Shop, shop  # type: ignore[import-not-found]  # on the path
    from toy_environment import Toy, toy  # type: ignore[import-not-found]  # on the path

    check_environment(toy)
    check_environment(Toy, split="test", tasks=5)
    check_environment(shop)
    check_environment(lambda: Shop(model=None, error_rate=1.0), split="test")


def changed(**update: Any) -> Callable[[Any], Any]:
    return lambda played: played.model_copy(update=update)


def with_steps(change: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda played: played.model_copy(update={"steps": change(played.steps)})


def outcome(**fields: Any) -> Callable[[Any], Any]:
    return lambda played: played.model_copy(
        update={"outcome": played.outcome.model_copy(update=fields)}
    )


def draws(played: Any) -> Any:
    random.random()
    return played


PLAYED = [
    (changed(id="x"), "has the episode's id"),
    (changed(source="x"), "has the environment's source"),
    (changed(task_id="x"), "has the task's id"),
    (changed(split="x"), "has the task's split"),
    (changed(fingerprint=Fingerprint(package="toy")), "the environment's fingerprint: version"),
    (changed(initial=()), "has what the agent saw first"),
    (with_steps(lambda steps: ()), "has 1 to max_steps steps"),
    (with_steps(lambda steps: steps[::-1]), "has its steps numbered from 0"),
    (outcome(status="unknown"), "is completed or truncated, not unknown"),
    (outcome(status="infrastructure_error"), "not infrastructure_error"),
    (draws, "leaves the random module's state"),
]


@pytest.mark.parametrize(("change", "promise"), PLAYED, ids=[promise for _, promise in PLAYED])
def test_a_wrong_trajectory_is_named(change: Callable[[Any], Any], promise: str) -> None:
    from toy_environment import Toy  # type: ignore[import-not-found]  # on the path

    class Wrong(Toy):
        def play(self, episode: Any) -> Any:
            return change(super().play(episode))

    with pytest.raises(AssertionError, match=f"broken promise: .*{promise}"):
        check_environment(Wrong)


def lists(*ids: str) -> Callable[..., Any]:
    def tasks(self: Any, split: str) -> Any:
        from toy_environment import Task  # type: ignore[import-not-found]  # on the path

        if split not in self.splits:
            raise KeyError(split) if not ids else ValueError
        return [Task(id=id_, split=split) for id_ in ids]

    return tasks


DESCRIBED: list[tuple[dict[str, Any], str]] = [
    ({"source": " "}, "it has a name for its source"),
    ({"splits": ()}, "it has splits, each once"),
    ({"splits": ("train", "train")}, "it has splits, each once"),
    ({"default_max_steps": 0}, "its default_max_steps is 1 or more"),
    ({"fingerprint": lambda self: Fingerprint(agent="coin")}, "has package and version"),
    ({"fingerprint": lambda self: Fingerprint(package="t", version="1")}, "names its agent"),
    ({"tasks": lists()}, "split 'train' has tasks"),
    ({"tasks": lists("a", "a")}, "split 'train' has every task once"),
    ({"summarize": lambda self, played: {"x": float("inf")}}, "its summary is JSON"),
]


@pytest.mark.parametrize(("names", "promise"), DESCRIBED, ids=[words for _, words in DESCRIBED])
def test_a_wrong_description_is_named(names: dict[str, Any], promise: str) -> None:
    from toy_environment import Toy  # type: ignore[import-not-found]  # on the path

    with pytest.raises(AssertionError, match=f"broken promise: .*{promise}"):
        check_environment(type("Wrong", (Toy,), names))


def test_an_unknown_split_must_be_refused() -> None:
    from toy_environment import Toy  # type: ignore[import-not-found]  # on the path

    class Lax(Toy):
        def tasks(self, split: str) -> Any:
            return super().tasks("train")

    with pytest.raises(AssertionError, match="of an unknown split raises UsageError"):
        check_environment(Lax)


def test_one_seed_must_give_one_episode() -> None:
    from toy_environment import Toy  # type: ignore[import-not-found]  # on the path

    class Moody(Toy):
        def play(self, episode: Any) -> Any:
            played = super().play(episode)
            won = self.attempts[episode.id] == 1
            return outcome(success=won)(played)

    with pytest.raises(AssertionError, match="with one seed is the same again"):
        check_environment(Moody)
    check_environment(Moody, deterministic=False)


def test_a_cut_short_episode_must_be_truncated() -> None:
    from toy_environment import Toy  # type: ignore[import-not-found]  # on the path

    class Endless(Toy):
        def play(self, episode: Any) -> Any:
            return outcome(status="completed")(super().play(episode))

    with pytest.raises(AssertionError, match="cut short is truncated"):
        check_environment(Endless)
