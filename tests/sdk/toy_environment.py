"""An environment for tests: coins are tossed. Named as toy_environment:toy in its folder."""

import threading
from random import Random
from typing import Annotated

import typer

from rwml import Message, Outcome, Step, Trajectory
from rwml.environments import Environment, Episode, Task, check_split, new_trajectory
from rwml.errors import MissingExtraError
from rwml.schema import Fingerprint


class Toy:
    source, splits, default_max_steps = "toy", ("train", "test"), 5

    def __init__(
        self,
        *,
        rate: float = 0.5,
        fail: tuple[str, ...] = (),
        flaky: int = 0,
        hang_after: int | None = None,
        version: str = "1",
        tasks: int = 10,
        missing: bool = False,
    ) -> None:
        self.rate, self.fail, self.flaky, self.hang_after = rate, fail, flaky, hang_after
        self.version, self.size, self.missing = version, tasks, missing
        self.agent = "coin"
        self.lock = threading.Lock()
        self.attempts: dict[str, int] = {}
        self.played: list[Episode] = []
        self.closed = False

    def tasks(self, split: str) -> list[Task]:
        check_split(self, split)
        kinds = ("even", "odd")
        return [Task(id=f"t{n}", split=split, kind=kinds[n % 2]) for n in range(self.size)]

    def fingerprint(self) -> Fingerprint:
        return Fingerprint(package="toy", version=self.version, agent=self.agent)

    def play(self, episode: Episode) -> Trajectory:
        with self.lock:
            place = len(self.attempts)
            attempt = self.attempts[episode.id] = self.attempts.get(episode.id, 0) + 1
            self.played.append(episode)
        if self.missing:
            raise MissingExtraError("toy", "coins")
        if self.hang_after is not None and place >= self.hang_after:
            threading.Event().wait()
        if episode.task.id in self.fail or attempt <= self.flaky:
            raise ConnectionError("the mint is closed:\n api_key=sk-aaaabbbbccccddddeeeeffff1234")
        random = Random(episode.seed)
        steps = [self._toss(random, index) for index in range(min(3, episode.max_steps))]
        return new_trajectory(
            self,
            episode,
            initial=(Message(role="user", content="Toss it."),),
            steps=steps,
            outcome=Outcome(
                status="completed" if len(steps) == 3 else "truncated",
                success=random.random() < self.rate,
            ),
        )

    def summarize(self, trajectories: list[Trajectory]) -> dict:
        texts = [m.content or "" for t in trajectories for s in t.steps for m in s.observation]
        return {"heads": sum(text == "heads" for text in texts), "tosses": len(texts)}

    def close(self) -> None:
        self.closed = True

    @staticmethod
    def _toss(random: Random, index: int) -> Step:
        side = Message(role="user", content=random.choice(("heads", "tails")))
        action = Message(role="assistant", content="toss")
        return Step(
            index=index, action=action, observation=(side,), kind="environment", status="ok"
        )


def toy(
    *,
    rate: Annotated[float, typer.Option(help="Share of lucky episodes.")] = 0.5,
    fail: Annotated[list[str] | None, typer.Option(help="Task that raises.")] = None,
    flaky: int = 0,
    hang_after: int | None = None,
    toy_version: str = "1",
    missing: bool = False,
) -> Environment:
    """Coins are tossed.

    Args:
        rate: not for help.
    """
    return Toy(
        rate=rate,
        fail=tuple(fail or ()),
        flaky=flaky,
        hang_after=hang_after,
        version=toy_version,
        missing=missing,
    )
