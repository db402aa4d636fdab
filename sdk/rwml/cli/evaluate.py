"""`rwml eval NAME`: plays an environment's episodes and reports success with its uncertainty."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

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
from rwml.cli.output import JsonFlag, emit, say
from rwml.environments import Environment, Episode, Finished, plan_episodes
from rwml.environments.charts import draw_report
from rwml.environments.comparing import Report, check_bases, compare, describe, read_report
from rwml.environments.folder import CHART, Kept, ResultsFolder
from rwml.environments.reports import details_of, make_report, settings_of
from rwml.environments.results import Result
from rwml.environments.running import RETRIES
from rwml.errors import MissingExtraError, UsageError
from rwml.recorder import Recorder

# Without RWML_STORE: what an evaluation plays must not get into a training store by accident.
EvalStoreOption = Annotated[str | None, typer.Option("--store", help="Record into this store too.")]
OutOption = Annotated[Path | None, typer.Option(help="Folder for results, report and chart.")]
BaselineOption = Annotated[
    Path | None, typer.Option(help="Folder or report.json of an evaluation to compare with.")
]
ResumeFlag = Annotated[bool, typer.Option("--resume", help="Go on with what --out holds.")]


_OF_COMPARISON = ("base", "trained", "difference", "ci95", "verdict")


@dataclass(frozen=True)
class _Run:
    """What is played, and how."""

    environment: Environment
    episodes: Sequence[Episode]
    settings: Mapping[str, JsonValue]
    concurrency: int
    retries: int
    baseline: Report | None


def evaluate(
    make: Make,
    *,
    split: SplitOption = None,
    tasks: TasksOption = None,
    task_id: TaskIdOption = None,
    trials: TrialsOption = 1,
    seed: SeedOption = 0,
    max_steps: MaxStepsOption = None,
    concurrency: ConcurrencyOption = 1,
    retries: RetriesOption = RETRIES,
    out: OutOption = None,
    resume: ResumeFlag = False,
    baseline: BaselineOption = None,
    store: EvalStoreOption = None,
    json: JsonFlag = False,
) -> None:
    """Success comes with its 95% interval, pass^k and a breakdown by kind of task.

    With --baseline also the paired difference, and whether it is outside noise.

    With --out, Ctrl-C keeps what is done, and --resume goes on. Exit code 3 when no episode could
    be scored because of the infrastructure.
    """
    if resume and out is None:
        raise UsageError("--resume needs --out: the folder with what is done")
    against = None if baseline is None else read_report(baseline)
    with opened(make) as environment:
        episodes = plan_episodes(
            environment, split=split, first=tasks, task_ids=task_id or (),
            trials=trials, seed=seed, max_steps=max_steps,
        )  # fmt: skip
        settings = settings_of(
            environment, episodes, split=split or environment.splits[0], seed=seed
        )
        if against is not None:
            way_out = "evaluate on the same, or leave --baseline out and see rwml compare"
            check_bases(against, settings, way_out=way_out)
        run = _Run(environment, episodes, settings, concurrency, retries, against)
        report = _evaluate(run, out=out, resume=resume, store=store)
    emit(report, as_json=json, text=_text(report))
    faults = report["infrastructure_errors"]
    if report["success_rate"] is None and faults:
        raise typer.Exit(3)


def _evaluate(
    run: _Run, *, out: Path | None, resume: bool, store: str | None
) -> dict[str, JsonValue]:
    with ExitStack() as stack:
        folder: ResultsFolder | None = None
        if out is not None:
            folder = ResultsFolder(out, settings=run.settings, resume=resume)
            stack.enter_context(closing(folder))
        recorder = None if store is None else stack.enter_context(Recorder(store=store))
        kept = {k.result.id: k for k in (folder.kept() if folder else ())}
        if kept:
            say(f"{len(kept)} of {len(run.episodes)} episodes are done already")

        def keep(finished: Finished, result: Result) -> None:
            kept[result.id] = (
                folder.add(finished, result) if folder else Kept(result, finished.trajectory)
            )

        whole = play(
            run.environment, [e for e in run.episodes if e.id not in kept],
            recorder=recorder, concurrency=run.concurrency, retries=run.retries, keep=keep,
        )  # fmt: skip
        if recorder is not None and not recorder.flush(FLUSH_TIMEOUT_S):
            say(f"rwml: not everything is in the store: {recorder.stats}")
        if not whole:
            _say_interrupted(len(kept), len(run.episodes), out)
            raise typer.Exit(INTERRUPTED)
        report = _report(run, kept)
        if folder is not None:
            folder.write_report(report)
            _draw(report, folder.path / CHART)
        return report


def _report(run: _Run, kept: Mapping[str, Kept]) -> dict[str, JsonValue]:
    ordered = [kept[episode.id] for episode in run.episodes]
    played = [k.trajectory for k in ordered if k.trajectory and not k.result.is_fault]
    details = details_of(run.environment, played)
    report = make_report(run.settings, [k.result for k in ordered], details=details)
    if run.baseline is not None:
        comparison = compare(run.baseline, report)
        report |= {name: comparison[name] for name in _OF_COMPARISON}
        report["comparison"] = comparison
    return report


def _draw(report: Mapping[str, JsonValue], path: Path) -> None:
    try:
        draw_report(report, path)
    except MissingExtraError as error:
        say(f"rwml: no chart: {error}")


def _say_interrupted(done: int, wanted: int, out: Path | None) -> None:
    if out is None:
        say(f"rwml: interrupted after {done} of {wanted} episodes; with --out they are kept")
    else:
        say(f"rwml: interrupted: {done} of {wanted} episodes are kept in {out}; --resume goes on")


def _text(report: Mapping[str, Any]) -> str:
    words = rate(report["success_rate"])
    if report["success_ci95"]:
        low, high = report["success_ci95"]
        words += f" (95% interval {low:.0%} to {high:.0%})"
    lines = [f"{report['tasks']} tasks, trials of each {report['trials']}: {words}"]
    chances = report["pass_hat_k"]
    if len(chances) > 1:
        lines.append(", ".join(f"pass^{k} {chance:.0%}" for k, chance in chances.items()))
    for kind, figures in report["by_kind"].items():
        lines.append(f"{kind}: {figures['tasks']} tasks, {rate(figures['success_rate'])}")
    if report["infrastructure_errors"]:
        lines.append(f"{report['infrastructure_errors']} infrastructure errors, not scored")
    if "comparison" in report:
        lines.append(describe(report["comparison"]))
    return "\n".join(lines)
