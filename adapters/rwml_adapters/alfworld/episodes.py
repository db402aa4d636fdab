"""Plays one ALFWorld episode and makes its trajectory.

A turn is one decision of the actor, also one in the wrong form: the environment does not see that,
but it counts. What goes wrong around the agent ends the episode as an infrastructure error that
keeps the steps so far; it is never a failure.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime

from pydantic import JsonValue

from rwml.environments import Environment, Episode, infrastructure_error, new_trajectory
from rwml.errors import MissingExtraError, UsageError
from rwml.schema import Message, Outcome, Step, Trajectory
from rwml_adapters.agent_faults import agent_fault
from rwml_adapters.alfworld.env import AlfworldEnv
from rwml_adapters.alfworld.policies import Actor, Decision, Policy, Situation
from rwml_adapters.alfworld.prompts import NOTHING_HAPPENS, SYSTEM_PROMPT, Turn

SOURCE = "alfworld"
INVALID_KEY = "invalid"
"""Step metadata: ``format`` for a reply in the wrong form, ``command`` for one not understood."""
COMMANDS_KEY = "admissible_commands"
"""Step metadata: what was possible when the action was chosen."""
TASK_TYPE_KEY = "task_type"
"""Metadata of a trajectory: the type of its task."""


@dataclass
class _Play:
    """An episode under way, with what it has so far also when it fails half way."""

    game: AlfworldEnv
    actor: Actor
    first: str
    info: dict[str, JsonValue]
    steps: list[Step] = field(default_factory=list)
    history: list[Turn] = field(default_factory=list)
    won: bool = False

    def turn(self) -> None:
        """One decision, and what comes back."""
        commands = _texts(self.info[COMMANDS_KEY])
        situation = Situation(
            first=self.first,
            history=tuple(self.history),
            commands=commands,
            plan=self.game.expert_plan,
        )
        started_at = datetime.now(UTC)
        decision = self.actor(situation)
        if decision.command is None:
            observation = NOTHING_HAPPENS
        else:
            observation, _, self.won, _, self.info = self.game.step(decision.command)
        self.history.append(Turn(decision.message.content or "", observation))
        self.steps.append(_step(decision, observation, len(self.steps), commands, started_at))


def play_episode(
    environment: Environment, episode: Episode, *, game: AlfworldEnv, policy: Policy
) -> Trajectory:
    """Plays a whole episode.

    Args:
        environment: whose episode it is.
        episode: which one.
        game: the one of its task; it must allow at least as many steps.
        policy: who acts.

    Raises:
        UsageError: the game cannot be played as asked for; another try would not help.
        MissingExtraError: a package is missing.
    """
    started_at = datetime.now(UTC)
    first, info = game.reset(seed=episode.seed)
    play = _Play(game=game, actor=policy.begin(episode.seed), first=first, info=info)
    outcome = _outcome(play, episode)
    return new_trajectory(
        environment,
        episode,
        initial=(
            Message(role="system", content=SYSTEM_PROMPT),
            Message(role="user", content=first),
        ),
        steps=tuple(play.steps),
        outcome=outcome,
        started_at=started_at,
        metadata={
            TASK_TYPE_KEY: info["task_type"],
            "goal": info["goal"],
            "logic": game.text.logic,
            "game_logic": game.text.game_logic,
        },
    )


def _outcome(play: _Play, episode: Episode) -> Outcome:
    try:
        while not play.won and len(play.steps) < episode.max_steps:
            play.turn()
    except (UsageError, MissingExtraError):
        raise
    except Exception as error:  # noqa: BLE001 - any failure around the agent is one outcome
        return agent_fault(error) or infrastructure_error(error)
    return Outcome(
        status="completed" if play.won else "truncated",
        success=play.won,
        reward=float(play.won),
    )


def _step(
    decision: Decision,
    observation: str,
    index: int,
    commands: list[str],
    started_at: datetime,
) -> Step:
    metadata: dict[str, JsonValue] = {**decision.metadata, COMMANDS_KEY: list(commands)}
    invalid = None
    if decision.command is None:
        invalid = "format"
    elif observation == NOTHING_HAPPENS:
        invalid = "command"
    if invalid is not None:
        metadata[INVALID_KEY] = invalid
    return Step(
        index=index,
        action=decision.message,
        observation=(Message(role="user", content=observation),),
        kind="environment",
        status="ok" if invalid is None else "error",
        started_at=started_at,
        latency_s=decision.latency_s,
        model=decision.model,
        usage=decision.usage,
        metadata=metadata,
    )


def _texts(value: JsonValue) -> list[str]:
    return [str(each) for each in value] if isinstance(value, list) else []
