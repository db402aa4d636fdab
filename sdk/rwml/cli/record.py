"""`rwml record NAME`: plays an environment's episodes and records every one of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated

import typer
from pydantic import JsonValue

from rwml.cli.episodes import (
    FLUSH_TIMEOUT_S,
    INTERRUPTED,
    ConcurrencyOption,
    Make,
    MaxStepsOption,
    RetriesOption,
    SeedOption,
    SplitOption,
    TaskIdOption,
    TasksOption,
    TrialsOption,
    opened,
    play,
    rate,
)
from rwml.cli.output import JsonFlag, StoreOption, emit, say
from rwml.environments import Environment, Episode, plan_episodes
from rwml.environments.results import Result, count, in_order
from rwml.environments.resuming import find_recorded
from rwml.environments.running import RETRIES
from rwml.recorder import Recorder, RecorderStats

ResumeFlag = Annotated[
    bool, typer.Option("--resume", help="Leave out the episodes that the store has already.")
]


def record(
    make: Make,
    *,
    store: StoreOption,
    split: SplitOption = None,
    tasks: TasksOption = None,
    task_id: TaskIdOption = None,
    trials: TrialsOption = 1,
    seed: SeedOption = 0,
    max_steps: MaxStepsOption = None,
    concurrency: ConcurrencyOption = 1,
    retries: RetriesOption = RETRIES,
    resume: ResumeFlag = False,
    json: JsonFlag = False,
) -> None:
    """Every episode is recorded; recording one again updates it.

    Ctrl-C keeps what is done, and --resume goes on. Exit code 3 when no episode could be run.
    """
    with opened(make) as environment:
        episodes = plan_episodes(
            environment, split=split, first=tasks, task_ids=task_id or (),
            trials=trials, seed=seed, max_steps=max_steps,
        )  # fmt: skip
        with Recorder(store=store) as recorder:
            results = _recorded(recorder, environment, episodes) if resume else {}

            def keep(_: object, result: Result) -> None:
                results[result.id] = result

            left = [episode for episode in episodes if episode.id not in results]
            whole = play(
                environment, left, recorder=recorder, concurrency=concurrency,
                retries=retries, keep=keep,
            )  # fmt: skip
            durable = recorder.flush(FLUSH_TIMEOUT_S) and not recorder.stats.dropped
            stats = recorder.stats
        source = environment.source
    ordered = in_order(results.values(), [episode.id for episode in episodes])
    report = summarize(ordered, source=source, stats=stats)
    emit(report, as_json=json, text=_text(report))
    if not whole:
        say(f"rwml: interrupted: {len(results)} of {len(episodes)} episodes are kept; --resume")
        raise typer.Exit(INTERRUPTED)
    if not durable or (ordered and all(result.is_fault for result in ordered)):
        raise typer.Exit(3)


def summarize(
    results: Sequence[Result], *, source: str, stats: RecorderStats
) -> dict[str, JsonValue]:
    """The command's result; an infrastructure error counts neither as success nor as failure."""
    return {
        "source": source,
        "trajectories": len(results),
        "transitions": sum(result.transitions for result in results),
        "errors": sum(result.errors for result in results),
        **count(results),
        "episodes": [result.to_json() for result in results],
        "recorder": asdict(stats),
    }


def _recorded(
    recorder: Recorder, environment: Environment, episodes: Sequence[Episode]
) -> dict[str, Result]:
    if recorder.takes_nothing:
        return {}
    found = find_recorded(recorder.store, environment, episodes)
    say(f"{len(found)} of {len(episodes)} episodes are in the store already")
    return found


def _text(report: dict[str, JsonValue]) -> str:
    faults = report["infrastructure_errors"]
    return (
        f"{report['trajectories']} episodes, {report['transitions']} transitions "
        f"({report['errors']} errors), {rate(report['success_rate'])}"
        + (f", {faults} infrastructure errors" if faults else "")
    )
