"""Plays episodes: several at once, faults tried again, each handed over as soon as it has ended.

Threads are daemons and the caller only waits for results, so Ctrl-C is heard at once whatever the
agents do; what was handed over until then is the caller's to keep. Nothing of an episode may end
the run: what it raises becomes an outcome of its own, never a failure. Source: ours.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from pydantic import JsonValue

from rwml.content import well_formed
from rwml.environments.contract import Environment, Episode
from rwml.errors import AdapterError, MissingExtraError, UsageError
from rwml.redaction import redact_secrets
from rwml.schema import Outcome, Trajectory

RETRIES = 2
"""Further attempts at an episode after a fault of the infrastructure (ours)."""
RETRY_PAUSE_S = 1.0
"""Before the first further attempt; twice as long before each one after it (ours)."""
REASON_CHARS = 500
"""Length of a fault's text in the outcome (ours)."""
FAULT = "infrastructure_error"
STAMP = "episode"
"""Metadata key of a trajectory under which the runner says which trial it was, and how long."""


@dataclass(frozen=True, kw_only=True)
class Finished:
    """An episode that has ended.

    Attributes:
        episode: as it was asked for.
        trajectory: of its last attempt.
        attempts: how often it was tried.
        seconds: of all attempts, pauses included.
    """

    episode: Episode
    trajectory: Trajectory
    attempts: int
    seconds: float


def run_episodes(
    environment: Environment,
    episodes: Sequence[Episode],
    *,
    concurrency: int = 1,
    retries: int = RETRIES,
    pause_s: float = RETRY_PAUSE_S,
) -> Generator[Finished]:
    """Plays episodes and yields each when it has ended, in no certain order.

    When the caller stops (Ctrl-C too), no further episode is begun, and those that are running are
    left to themselves.

    Args:
        environment: plays them.
        episodes: in the order in which they are begun.
        concurrency: how many run at once.
        retries: further attempts after an infrastructure fault.
        pause_s: seconds before the first of them, doubled each time.

    Raises:
        UsageError: a number that cannot be.
        MissingExtraError: an episode needs a package that is not installed, as all others will.
    """
    if concurrency < 1:
        raise UsageError(f"--concurrency must be 1 or more, not {concurrency}")
    if retries < 0:
        raise UsageError(f"--retries must be 0 or more, not {retries}")
    return _run(_Player(environment, retries, pause_s), episodes, concurrency)


def _run(player: _Player, episodes: Sequence[Episode], concurrency: int) -> Generator[Finished]:
    waiting: queue.SimpleQueue[Episode] = queue.SimpleQueue()
    done: queue.SimpleQueue[Finished | BaseException] = queue.SimpleQueue()
    for episode in episodes:
        waiting.put(episode)
    try:
        for number in range(min(concurrency, len(episodes))):
            work = (waiting, done)
            name = f"rwml-episodes-{number}"
            threading.Thread(target=player.work, args=work, name=name, daemon=True).start()
        for _ in episodes:
            ended = done.get()
            if isinstance(ended, BaseException):
                raise ended
            yield ended
    finally:
        player.stop.set()


class _Player:
    """Plays one episode after the other, until there are none or it is told to stop."""

    def __init__(self, environment: Environment, retries: int, pause_s: float) -> None:
        self.stop = threading.Event()
        self._environment = environment
        self._retries = retries
        self._pause_s = pause_s

    def work(
        self,
        waiting: queue.SimpleQueue[Episode],
        done: queue.SimpleQueue[Finished | BaseException],
    ) -> None:
        """What each thread does."""
        while not self.stop.is_set():
            try:
                episode = waiting.get_nowait()
            except queue.Empty:
                return
            try:
                done.put(self._finish(episode))
            except BaseException as error:  # noqa: BLE001 - told to the caller, who waits for it
                done.put(error)
                return

    def _finish(self, episode: Episode) -> Finished:
        began = time.monotonic()
        attempts = 0
        while True:
            attempts += 1
            started_at = datetime.now(UTC)
            trajectory = self._attempt(episode)
            is_last = attempts > self._retries or trajectory.outcome.status != FAULT
            if is_last or self.stop.wait(self._pause_s * 2 ** (attempts - 1)):
                break
        return Finished(
            episode=episode,
            trajectory=_stamped(trajectory, episode, started_at),
            attempts=attempts,
            seconds=time.monotonic() - began,
        )

    def _attempt(self, episode: Episode) -> Trajectory:
        try:
            trajectory: object = self._environment.play(episode)
            if not isinstance(trajectory, Trajectory):
                raise AdapterError(
                    f"the environment {self._environment.source} returned "
                    f"{type(trajectory).__name__}, not a Trajectory"
                )
            if trajectory.id != episode.id:
                raise AdapterError(
                    f"the environment {self._environment.source} gave its trajectory the id "
                    f"{trajectory.id!r}, not the episode's {episode.id!r}"
                )
        except MissingExtraError:
            raise
        except BaseException as error:  # noqa: BLE001 - also sys.exit: whatever it is, one outcome
            outcome = infrastructure_error(error)
            return new_trajectory(self._environment, episode, outcome=outcome)
        return trajectory


def infrastructure_error(error: BaseException) -> Outcome:
    """The outcome of an episode that a fault around the agent ended; secrets are taken out."""
    text = redact_secrets(well_formed(" ".join(str(error).split())))[:REASON_CHARS]
    return Outcome(status=FAULT, breakdown={"error_type": type(error).__name__, "reason": text})


def new_trajectory(environment: Environment, episode: Episode, **fields: Any) -> Trajectory:
    """The trajectory of an episode: who, what and on which package, and the fields given.

    Args:
        environment: that played it.
        episode: as it was asked for.
        **fields: of `rwml.Trajectory`: ``initial``, ``tools``, ``steps``, ``outcome`` and so on.
    """
    fingerprint = environment.fingerprint().model_copy(update={"seed": episode.seed})
    known = {
        "id": episode.id,
        "source": environment.source,
        "task_id": episode.task.id,
        "split": episode.task.split,
        "fingerprint": fingerprint,
    }
    return Trajectory(**(known | fields))


def _stamped(trajectory: Trajectory, episode: Episode, started_at: datetime) -> Trajectory:
    """With what a later run must know to leave the episode alone (see `STAMP`)."""
    stamp: dict[str, JsonValue] = {
        "trial": episode.trial,
        "max_steps": episode.max_steps,
        "steps": len(trajectory.steps),
    }
    return trajectory.model_copy(
        update={
            "metadata": {**trajectory.metadata, STAMP: stamp},
            "started_at": trajectory.started_at or started_at,
        }
    )
