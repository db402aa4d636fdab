"""`rwml record tau2`: runs an agent on tau2-bench and records every episode.

Nothing heavy is imported here: `rwml --help` reads this module.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from pydantic import JsonValue

from rwml.cli.output import JsonFlag, StoreOption, emit, progress, say
from rwml.errors import UsageError
from rwml.recorder import Recorder, RecorderStats
from rwml_adapters.models import (
    DEFAULT_KEY_VARIABLE,
    REQUEST_TIMEOUT_S,
    ApiBaseOption,
    KeyFileOption,
    KeyVariableOption,
    MaxTokensOption,
    ModelOption,
    TemperatureOption,
    TimeoutOption,
    ToolsAsTextFlag,
    read_model_options,
)
from rwml_adapters.tau2.models import Agent, litellm_agent, scripted_agent
from rwml_adapters.tau2.package import DOMAINS, load_tasks, select_tasks

if TYPE_CHECKING:
    from tau2.data_model.tasks import Task

    from rwml.schema import Trajectory
    from rwml_adapters.tau2.episodes import Setting

POLICIES = ("perturbed", "oracle")
FLUSH_TIMEOUT_S = 60.0
"""How long the end of the command waits for the store (ours)."""

DomainOption = Annotated[str, typer.Option(help=f"One of {', '.join(DOMAINS)}.")]
SplitOption = Annotated[str, typer.Option(help="train, test or base (all).")]
TasksOption = Annotated[int | None, typer.Option("--tasks", help="Only the first N tasks.")]
TaskIdOption = Annotated[list[str] | None, typer.Option("--task-id", help="One task; repeatable.")]
PolicyOption = Annotated[str, typer.Option(help="Scripted agent: perturbed or oracle.")]
ErrorRateOption = Annotated[float, typer.Option(help="Share of actions that go wrong first.")]
SeedOption = Annotated[int, typer.Option(help="Of the agent and the user.")]
MaxStepsOption = Annotated[int, typer.Option(help="Steps of the agent; then it is truncated.")]


def record_tau2(
    store: StoreOption,
    domain: DomainOption = "retail",
    split: SplitOption = "train",
    tasks: TasksOption = None,
    task_id: TaskIdOption = None,
    policy: PolicyOption = "perturbed",
    error_rate: ErrorRateOption = 0.3,
    seed: SeedOption = 0,
    model: ModelOption = None,
    api_base: ApiBaseOption = None,
    api_key_env: KeyVariableOption = DEFAULT_KEY_VARIABLE,
    api_key_file: KeyFileOption = None,
    temperature: TemperatureOption = None,
    max_tokens: MaxTokensOption = None,
    tools_as_text: ToolsAsTextFlag = False,
    request_timeout: TimeoutOption = REQUEST_TIMEOUT_S,
    max_steps: MaxStepsOption = 30,
    json: JsonFlag = False,
) -> None:
    """Record tau2-bench episodes: real tools and scoring, a scripted user, any agent.

    Without --model a scripted agent replays the gold actions, with mistakes on the way.
    Recording an episode again updates it. Exit code 3 when no episode could be run.

    Example: rwml record tau2 --store sqlite:///rwml.db --tasks 20
    """
    options = read_model_options(
        model,
        api_base=api_base,
        api_key_env=api_key_env,
        api_key_file=api_key_file,
        temperature=temperature,
        max_tokens=max_tokens,
        tools_as_text=tools_as_text,
        timeout_s=request_timeout,
    )
    agent = litellm_agent(options, seed=seed) if options else _scripted(policy, error_rate, seed)
    chosen = select_tasks(load_tasks(domain, split), ids=task_id or [], first=tasks)
    from rwml_adapters.tau2.episodes import Setting

    setting = Setting(domain=domain, split=split, agent=agent, seed=seed, max_steps=max_steps)
    trajectories, stats, durable = _record(chosen, setting, store=store)
    result = summarize(trajectories, source=f"tau2:{domain}", stats=stats)
    emit(result, as_json=json, text=_text(result))
    failed = sum(t.outcome.status == "infrastructure_error" for t in trajectories)
    if not durable or (trajectories and failed == len(trajectories)):
        raise typer.Exit(3)


def summarize(
    trajectories: Sequence[Trajectory], *, source: str, stats: RecorderStats
) -> dict[str, JsonValue]:
    """The command's result; an infrastructure error counts neither as success nor as failure."""
    transitions = [step for trajectory in trajectories for step in trajectory.transitions()]
    judged = [t.outcome.success for t in trajectories if t.outcome.success is not None]
    episodes: list[JsonValue] = [
        {
            "task": trajectory.task_id,
            "steps": len(trajectory.steps),
            "status": trajectory.outcome.status,
            "reward": trajectory.outcome.reward,
        }
        for trajectory in trajectories
    ]
    return {
        "source": source,
        "tasks": len({trajectory.task_id for trajectory in trajectories}),
        "trajectories": len(trajectories),
        "transitions": len(transitions),
        "errors": sum(step.status == "error" for step in transitions),
        "success_rate": sum(judged) / len(judged) if judged else None,
        "statuses": dict(Counter(trajectory.outcome.status for trajectory in trajectories)),
        "episodes": episodes,
        "recorder": asdict(stats),
    }


def _scripted(policy: str, error_rate: float, seed: int) -> Agent:
    if policy not in POLICIES:
        raise UsageError(f"no policy {policy!r}: use one of {', '.join(POLICIES)}")
    return scripted_agent(error_rate=error_rate if policy == "perturbed" else 0.0, seed=seed)


def _record(
    tasks: Sequence[Task], setting: Setting, *, store: str
) -> tuple[list[Trajectory], RecorderStats, bool]:
    """Runs and records the tasks; also says whether everything is durable."""
    from rwml_adapters.tau2.episodes import run_episode

    trajectories: list[Trajectory] = []
    with Recorder(store=store) as recorder:
        with progress(f"tau2:{setting.domain}", total=len(tasks)) as advance:
            for task in tasks:
                trajectory = run_episode(task, setting)
                recorder.record(trajectory)
                trajectories.append(trajectory)
                _warn(trajectory, trajectories)
                advance(f"{task.id[:24]}: {trajectory.outcome.status}")
        durable = recorder.flush(FLUSH_TIMEOUT_S) and not recorder.stats.dropped
        return trajectories, recorder.stats, durable


def _warn(trajectory: Trajectory, so_far: Sequence[Trajectory]) -> None:
    """Says why on the first infrastructure error; the others have their reason in the store."""
    status = "infrastructure_error"
    if trajectory.outcome.status != status:
        return
    if sum(t.outcome.status == status for t in so_far) == 1:
        reason = trajectory.outcome.breakdown.get("reason")
        kind = trajectory.outcome.breakdown.get("error_type")
        say(f"rwml: task {trajectory.task_id}: infrastructure error, not scored: {kind}: {reason}")


def _text(result: dict[str, JsonValue]) -> str:
    rate = result["success_rate"]
    success = f"{rate:.0%} successful" if isinstance(rate, float) else "none scored"
    return (
        f"{result['trajectories']} episodes, {result['transitions']} transitions "
        f"({result['errors']} errors), {success}"
    )
