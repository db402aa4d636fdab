"""Who acts in an ALFWorld episode: a policy makes an actor for each, and the actor decides.

The scripted policies need no LLM: the expert follows the planner, the random one any admissible
command, and the exploring one leaves the expert's plan as often as it is told to. All are seeded
per episode. A policy must not touch the environment: it sees a situation and says what to do.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from pydantic import JsonValue

from rwml.errors import AdapterError, UsageError
from rwml.schema import Message, Usage
from rwml_adapters.alfworld.mistakes import make_mistake
from rwml_adapters.alfworld.prompts import Turn

IDLE_SHARE = 1 / 3
"""Share of the exploring policy's detours that only look, examine or count (ours)."""
IDLE = ("look", "inventory", "help")
IDLE_PREFIX = "examine "


@dataclass(frozen=True)
class Situation:
    """What an actor decides upon.

    Attributes:
        first: the first observation, which holds the task.
        history: the turns so far.
        commands: admissible commands.
        plan: asks the planner for commands that win from here; it takes time.
    """

    first: str
    history: Sequence[Turn]
    commands: Sequence[str]
    plan: Callable[[], Sequence[str]]


@dataclass(frozen=True)
class Decision:
    """What an actor does.

    Attributes:
        command: for the environment; None for a reply in the wrong form.
        message: the action as it is recorded.
        model: the model that answered, where one did.
        usage: its tokens.
        latency_s: seconds until it had answered; None for a script.
        metadata: of the recorded step.
    """

    command: str | None
    message: Message
    model: str | None = None
    usage: Usage | None = None
    latency_s: float | None = None
    metadata: dict[str, JsonValue] = field(default_factory=dict)


Actor = Callable[[Situation], Decision]


class Policy(Protocol):
    """Makes the actor of each episode."""

    @property
    def name(self) -> str:
        """Part of the trajectories' ids."""
        ...

    def begin(self, seed: int) -> Actor:
        """An actor for one episode, with a state of its own."""
        ...


@dataclass(frozen=True)
class Expert:
    """Follows the planner, which knows where everything is."""

    name: str = "expert"

    def begin(self, seed: int) -> Actor:
        """See `Policy`."""
        plan = _Plan()

        def act(situation: Situation) -> Decision:
            command = plan.next(situation)
            if command is None:
                raise AdapterError("the planner found no way to the goal from here")
            return _said(command, "plan")

        return act


@dataclass(frozen=True)
class RandomWalk:
    """Takes any admissible command."""

    name: str = "random"

    def begin(self, seed: int) -> Actor:
        """See `Policy`."""
        rng = random.Random(seed)  # noqa: S311 - a walk, not security
        return lambda situation: _said(rng.choice(list(situation.commands)), "random")


@dataclass(frozen=True, kw_only=True)
class Explorer:
    """Follows the planner, with detours and mistakes on the way.

    Attributes:
        explore_rate: share of turns with a detour: an admissible command off the plan.
        error_rate: share of turns with a command that the environment does not take.

    Raises:
        UsageError: a rate is no share, or they are more than 1 together.
    """

    explore_rate: float
    error_rate: float

    def __post_init__(self) -> None:
        for option, rate in (
            ("--explore-rate", self.explore_rate),
            ("--error-rate", self.error_rate),
        ):
            if not 0 <= rate <= 1:
                raise UsageError(f"{option} must be between 0 and 1, not {rate:g}")
        if self.explore_rate + self.error_rate > 1:
            raise UsageError(
                f"--explore-rate and --error-rate must be 1 together at most, "
                f"not {self.explore_rate + self.error_rate:g}"
            )

    @property
    def name(self) -> str:
        """Both rates: what it does depends on them."""
        return f"explore-{self.explore_rate:g}-{self.error_rate:g}"

    def begin(self, seed: int) -> Actor:
        """See `Policy`."""
        rng, plan = random.Random(seed), _Plan()  # noqa: S311 - a walk, not security

        def act(situation: Situation) -> Decision:
            drawn = rng.random()
            if drawn < self.error_rate:
                mistake = make_mistake(_seen(situation), commands=situation.commands, rng=rng)
                return _said(mistake, "mistake")
            command = None
            if drawn >= self.error_rate + self.explore_rate:
                command = plan.next(situation)  # None: a detour has closed the way
            if command is None:
                plan.forget()
                return _detour(situation, rng)
            return _said(command, "plan")

        return act


class _Plan:
    """The planner's commands, asked for again only when something else was done."""

    def __init__(self) -> None:
        self._left: list[str] = []

    def next(self, situation: Situation) -> str | None:
        """The next command; None when there is no way to the goal."""
        if not self._left or self._left[0] not in situation.commands:
            self._left = list(situation.plan())
        return self._left.pop(0) if self._left else None

    def forget(self) -> None:
        """The household may change by something that is not in the plan."""
        self._left = []


def _detour(situation: Situation, rng: random.Random) -> Decision:
    idle = [c for c in situation.commands if c in IDLE or c.startswith(IDLE_PREFIX)]
    if idle and rng.random() < IDLE_SHARE:
        return _said(rng.choice(idle), "idle")
    return _said(rng.choice(list(situation.commands)), "random")


def _seen(situation: Situation) -> list[str]:
    return [situation.first, *(turn.observation for turn in situation.history)]


def _said(command: str, move: str) -> Decision:
    return Decision(
        command=command,
        message=Message(role="assistant", content=command),
        metadata={"move": move},
    )
