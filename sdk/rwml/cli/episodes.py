"""What `rwml record NAME` and `rwml eval NAME` share: their options, and the run under a bar."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Annotated

import typer

from rwml.cli.output import progress, say, stdout_to_stderr
from rwml.environments import Environment, Episode, Finished, run_episodes
from rwml.environments.results import Result, result_of
from rwml.recorder import Recorder

Make = Callable[[], Environment]

FLUSH_TIMEOUT_S = 60.0
"""How long the end of a command waits for the store (ours)."""
FLUSH_EPISODES = 50
"""After so many the run waits for the recorder, whose queue would overflow (ours)."""
INTERRUPTED = 130
"""Exit code after Ctrl-C, as a shell has it."""

SplitOption = Annotated[
    str | None, typer.Option(help="Split of the tasks; default the environment's first.")
]
TasksOption = Annotated[int | None, typer.Option("--tasks", help="Only the first N tasks.")]
TaskIdOption = Annotated[list[str] | None, typer.Option("--task-id", help="One task; repeatable.")]
TrialsOption = Annotated[int, typer.Option(help="Attempts at each task.")]
SeedOption = Annotated[int, typer.Option(help="Of everything random.")]
MaxStepsOption = Annotated[
    int | None, typer.Option(help="Steps of the agent; then it is truncated.")
]
ConcurrencyOption = Annotated[int, typer.Option(help="Episodes at once.")]
RetriesOption = Annotated[
    int, typer.Option(help="Further attempts after a fault of the infrastructure.")
]


@contextmanager
def opened(make: Make) -> Iterator[Environment]:
    """The environment, closed at the end; what its libraries print goes to stderr."""
    with stdout_to_stderr(), closing(make()) as environment:
        yield environment


def play(
    environment: Environment,
    episodes: Sequence[Episode],
    *,
    recorder: Recorder | None,
    concurrency: int,
    retries: int,
    keep: Callable[[Finished, Result], object],
) -> bool:
    """Plays and records episodes under a progress bar; says why on the first fault.

    Args:
        environment: plays them.
        episodes: those that are left to play.
        recorder: None records nothing.
        concurrency: episodes at once.
        retries: after a fault.
        keep: given each episode as soon as it has ended.

    Returns:
        False where Ctrl-C ended the run.
    """
    run = run_episodes(environment, episodes, concurrency=concurrency, retries=retries)
    faults = 0
    try:
        with closing(run), progress(environment.source, total=len(episodes)) as advance:
            for number, finished in enumerate(run, 1):
                result = result_of(finished.trajectory, finished.episode)
                with _uninterrupted():
                    if recorder is not None:
                        recorder.record(finished.trajectory)
                    keep(finished, result)
                if recorder is not None and number % FLUSH_EPISODES == 0:
                    recorder.flush(FLUSH_TIMEOUT_S)
                faults += result.is_fault
                if result.is_fault and faults == 1:
                    say(
                        f"rwml: task {result.task}: infrastructure error, not scored: "
                        f"{result.reason}"
                    )
                advance(f"{result.task[:24]}: {result.status}")
    except KeyboardInterrupt:
        return False
    return True


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Ctrl-C is heard when the block has ended, so that an episode is kept whole or not at all."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    heard: list[int] = []
    former = signal.signal(signal.SIGINT, lambda number, _: heard.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, former)
    if heard:
        raise KeyboardInterrupt


def rate(value: object) -> str:
    """A success rate in words."""
    return f"{value:.0%} successful" if isinstance(value, float) else "none scored"
