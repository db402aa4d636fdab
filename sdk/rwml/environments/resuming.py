"""Which episodes of a run a store has already, so that they need not be played again.

An episode is there when its trajectory ended in any way but an infrastructure error and all its
steps are stored: a program that was killed may have left a part. What was recorded with other
settings is refused, as the two would be one run in name only. Source: ours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rwml.environments.contract import Environment, Episode
from rwml.environments.results import Result, result_of
from rwml.environments.running import STAMP
from rwml.errors import UsageError
from rwml.redaction import Redaction, redact_id
from rwml.schema import Trajectory
from rwml.store import Store

_SAME = ("package", "version", "data_version")


def find_recorded(
    store: Store, environment: Environment, episodes: Sequence[Episode]
) -> dict[str, Result]:
    """Results of the episodes that the store has in full, by id.

    Raises:
        UsageError: one was recorded with another limit of steps, package or data.
    """
    session = Redaction().for_source(environment.source).session(key=store.key)
    found: dict[str, Result] = {}
    for episode in episodes:
        for trajectory in store.trajectories(id=redact_id(episode.id, session)):
            stamp = trajectory.metadata.get(STAMP)
            if not isinstance(stamp, Mapping) or not _is_whole(trajectory, stamp):
                continue
            _check(trajectory, environment, episode, stamp)
            found[episode.id] = result_of(trajectory, episode)
    return found


def _is_whole(trajectory: Trajectory, stamp: Mapping[str, object]) -> bool:
    has_ended = trajectory.outcome.status in ("completed", "truncated")
    return has_ended and stamp.get("steps") == len(trajectory.steps)


def _check(
    trajectory: Trajectory, environment: Environment, episode: Episode, stamp: Mapping[str, object]
) -> None:
    now = environment.fingerprint()
    pairs = [(name, getattr(trajectory.fingerprint, name), getattr(now, name)) for name in _SAME]
    pairs.append(("max_steps", stamp.get("max_steps"), episode.max_steps))
    for name, before, wanted in pairs:
        if before != wanted:
            raise UsageError(
                f"the store has the episode {episode.id} with {name} {before}, not {wanted}: "
                f"record into another store, or again without --resume"
            )
