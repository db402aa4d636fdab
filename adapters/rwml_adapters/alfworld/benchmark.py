"""ALFWorld as an environment of rwml: what `rwml record alfworld` and `rwml eval alfworld` play.

Importing this loads neither alfworld nor LangChain: the command line reads the options here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer
from pydantic import JsonValue

from rwml.cli.endpoints import DEFAULT_KEY_VARIABLE, ApiBaseOption, KeyFileOption, KeyVariableOption
from rwml.environments import Environment, Episode, Task
from rwml.errors import UsageError
from rwml.extras import require
from rwml.references import load_reference
from rwml.schema import Fingerprint, Trajectory
from rwml_adapters.alfworld.agent import graph_policy, litellm_policy
from rwml_adapters.alfworld.engine import EngineName
from rwml_adapters.alfworld.env import MAX_STEPS, AlfworldEnv
from rwml_adapters.alfworld.episodes import SOURCE, play_episode
from rwml_adapters.alfworld.games import SPLITS, TASK_TYPES, Game, find_games
from rwml_adapters.alfworld.logic import GameText, LogicName, load_game
from rwml_adapters.alfworld.policies import Expert, Explorer, Policy, RandomWalk
from rwml_adapters.alfworld.reporting import summarize
from rwml_adapters.models import (
    REQUEST_TIMEOUT_S,
    MaxTokensOption,
    ModelOption,
    ModelOptions,
    TemperatureOption,
    TimeoutOption,
    read_model_options,
)

POLICIES = ("explore", "expert", "random")
EXPLORE_RATE = 0.3
"""Share of detours (ours)."""
ERROR_RATE = 0.1
"""Share of commands that are not taken (ours)."""

PolicyOption = Annotated[
    str | None, typer.Option(help=f"Scripted agent: {', '.join(POLICIES)} (the first by default).")
]
ExploreRateOption = Annotated[
    float | None, typer.Option(help=f"explore: share of detours ({EXPLORE_RATE:g} by default).")
]
ErrorRateOption = Annotated[
    float | None, typer.Option(help=f"explore: share of mistakes ({ERROR_RATE:g} by default).")
]
AgentOption = Annotated[
    str | None,
    typer.Option(help="Graph factory of your own, as module:name; see docs/alfworld.md."),
]
HistoryOption = Annotated[
    int | None, typer.Option(help="Turns that the prompt tells; all by default.")
]
EngineOption = Annotated[EngineName, typer.Option(help="Both give the same texts.")]
LogicOption = Annotated[
    LogicName, typer.Option(help="Of the installed alfworld, or each game file's own.")
]
TaskTypeOption = Annotated[
    list[str] | None, typer.Option("--task-type", help="Only these tasks; repeatable.")
]
DataOption = Annotated[
    Path | None, typer.Option(help="Folder of the games.", envvar="ALFWORLD_DATA")
]


class AlfworldBenchmark:
    """ALFWorld's games with one agent, as an `Environment`.

    Args:
        policy: who acts.
        data: folder of the games; None for the usual one.
        task_types: only games of these; None for all.
        engine: of the games.
        logic: of the games.

    Raises:
        UsageError: an unknown task type.
        MissingExtraError: alfworld or textworld is not installed.
    """

    source = SOURCE
    splits = SPLITS
    default_max_steps = MAX_STEPS

    def __init__(
        self,
        policy: Policy,
        *,
        data: Path | None = None,
        task_types: Sequence[str] | None = None,
        engine: EngineName = "fast",
        logic: LogicName = "installed",
    ) -> None:
        require("alfworld", "alfworld", "textworld")
        if unknown := sorted(set(task_types or ()) - set(TASK_TYPES)):
            raise UsageError(f"no task type {unknown[0]!r}: use one of {', '.join(TASK_TYPES)}")
        self._policy = policy
        self._data = data
        self._task_types = task_types
        self._engine: EngineName = engine
        self._logic: LogicName = logic
        self._games: dict[str, Game] = {}

    @property
    def agent(self) -> str:
        """The policy's name; games on their own logic are not the same games."""
        return self._policy.name if self._logic == "installed" else f"{self._policy.name}-own-logic"

    def tasks(self, split: str) -> list[Task]:
        """See `Environment`: one task per game, the task types in turn, so that few are a mix."""
        games = find_games(split, data=self._data, task_types=self._task_types)
        if not games:
            raise UsageError(f"no {split} games of {', '.join(self._task_types or TASK_TYPES)}")
        self._games.update({f"{game.split}/{game.id}": game for game in games})
        return [Task(id=game.id, split=game.split, kind=game.task_type) for game in _in_turn(games)]

    def fingerprint(self) -> Fingerprint:
        """See `Environment`: with the logic that the games carry, and the one that they run on."""
        return self._fingerprint

    def play(self, episode: Episode) -> Trajectory:
        """See `Environment`."""
        game = self._games.get(f"{episode.task.split}/{episode.task.id}")
        if game is None:
            raise UsageError(f"no game {episode.task.id!r}: list the tasks of its split first")

        made = AlfworldEnv(
            game, engine=self._engine, max_steps=episode.max_steps, logic=self._logic
        )
        with made as opened:
            return play_episode(self, episode, game=opened, policy=self._policy)

    def summarize(self, trajectories: Sequence[Trajectory]) -> dict[str, JsonValue]:
        """See `reporting`."""
        return summarize(trajectories)

    def close(self) -> None:
        """Nothing is held between episodes."""

    @cached_property
    def _fingerprint(self) -> Fingerprint:
        """All games of a release carry the same logic; the first one at hand says which."""
        text: GameText | None = None
        for split in SPLITS:
            with suppress(UsageError):  # one that was not downloaded
                text = load_game(find_games(split, data=self._data)[0].file, logic=self._logic)
                break
        return Fingerprint(
            package="alfworld",
            version=version("alfworld"),
            data_version=None if text is None else f"{text.game_logic} on {text.logic}",
            agent=self.agent,
        )


def alfworld(
    *,
    policy: PolicyOption = None,
    explore_rate: ExploreRateOption = None,
    error_rate: ErrorRateOption = None,
    model: ModelOption = None,
    api_base: ApiBaseOption = None,
    api_key_env: KeyVariableOption = DEFAULT_KEY_VARIABLE,
    api_key_file: KeyFileOption = None,
    temperature: TemperatureOption = None,
    max_tokens: MaxTokensOption = None,
    request_timeout: TimeoutOption = REQUEST_TIMEOUT_S,
    agent: AgentOption = None,
    history: HistoryOption = None,
    task_type: TaskTypeOption = None,
    engine: EngineOption = "fast",
    logic: LogicOption = "installed",
    data: DataOption = None,
) -> Environment:
    """ALFWorld: household tasks in text, played by a script, any LiteLLM model, or your graph.

    Raises:
        UsageError: options that do not go together, or have impossible values.
        MissingExtraError: a package is not installed.
    """
    options = read_model_options(
        model,
        api_base=api_base,
        api_key_env=api_key_env,
        api_key_file=api_key_file,
        temperature=temperature,
        max_tokens=max_tokens,
        timeout_s=request_timeout,
    )
    if options is None and agent is None:
        if history is not None:
            raise UsageError("--history is for a model or a graph: add --model or --agent")
        actor = scripted_policy(policy, explore_rate=explore_rate, error_rate=error_rate)
    else:
        if policy is not None or explore_rate is not None or error_rate is not None:
            raise UsageError(
                "--policy and its rates are for scripts: leave out --model and --agent"
            )
        actor = _graph_policy(agent, options, history)
    return AlfworldBenchmark(actor, data=data, task_types=task_type, engine=engine, logic=logic)


def scripted_policy(
    name: str | None, *, explore_rate: float | None = None, error_rate: float | None = None
) -> Policy:
    """The scripted policy of a name; None for the exploring one.

    Raises:
        UsageError: no such policy, or rates for one that has none.
    """
    name = name or POLICIES[0]
    if name not in POLICIES:
        raise UsageError(f"no policy {name!r}: use one of {', '.join(POLICIES)}")
    if name == "explore":
        return Explorer(
            explore_rate=EXPLORE_RATE if explore_rate is None else explore_rate,
            error_rate=ERROR_RATE if error_rate is None else error_rate,
        )
    if explore_rate is not None or error_rate is not None:
        raise UsageError("--explore-rate and --error-rate are for --policy explore")
    return Expert() if name == "expert" else RandomWalk()


def _graph_policy(agent: str | None, options: ModelOptions | None, turns: int | None) -> Policy:
    if agent is None and options is not None:
        return litellm_policy(options, turns=turns)
    factory = load_reference(agent or "")
    if not callable(factory):
        raise UsageError(
            f"{agent} is no graph factory: name a function that takes a chat model (None without "
            f"--model) and a seed, and returns a compiled graph"
        )
    return graph_policy(factory, name=agent or "", options=options, turns=turns)


def _in_turn(games: Sequence[Game]) -> list[Game]:
    """The first game of each task type, then the second of each, and so on."""
    seen: Counter[str] = Counter()
    ranked = []
    for game in games:
        ranked.append((seen[game.task_type], TASK_TYPES.index(game.task_type), game))
        seen[game.task_type] += 1
    return [game for *_, game in sorted(ranked, key=lambda each: each[:2])]
