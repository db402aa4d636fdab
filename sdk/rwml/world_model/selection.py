"""Which recorded transitions a monitor looks at: a period, a source, a share of them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from rwml.errors import UsageError
from rwml.schema import Trajectory, Transition, is_version_of
from rwml.sightings import INNER_SOURCES, Sightings
from rwml.store import Store
from rwml.world_model.baseline import Baseline

_DOMAIN = b"rwml-monitor\0"  # apart from every other hash of an id


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Which recorded transitions are looked at.

    Attributes:
        source: only this one's.
        from_model: only what this one chose: a name, or ``NAME`` for all of ``NAME@STEP``.
        since: only trajectories that began then or later.
        until: only trajectories that began before.
        sample: share of the transitions, by a hash of their ids: the same ones every time.

    Raises:
        UsageError: the share is not above 0 and at most 1, or the times are the wrong way round.
    """

    source: str | None = None
    from_model: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    sample: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.sample <= 1:
            raise UsageError(f"a sample is a share such as 5% or 0.05, not {self.sample:g}")
        if self.since and self.until and self.since >= self.until:
            raise UsageError("the period ends before it begins: swap --since and --until")

    def pick(
        self, store: Store, *, history: int, note: Callable[[datetime], None] | None = None
    ) -> Iterator[Transition]:
        """The transitions, each call once: of one that was recorded twice, the client's.

        Args:
            store: with the recorded traffic.
            history: H, the earlier turns of a context.
            note: told when each selected trajectory began, where it says so.
        """
        seen = self._sightings(store)
        for trajectory in store.trajectories(source=self.source):
            began = _beginning(trajectory)
            if self.covers(began):
                if began is not None and note is not None:
                    note(began)
                for transition in trajectory.transitions(history=history):
                    if self._takes(transition) and not seen.has_twin_of(transition):
                        yield transition

    def _sightings(self, store: Store) -> Sightings:
        if not any(store.counts(source=name).transitions for name in INNER_SOURCES):
            return Sightings()
        return Sightings(store.transitions(history=0, source=self.source))

    def after(self, baseline: Baseline) -> Selection:
        """The same from where a reference period ends, unless it says itself where it begins."""
        if self.since is not None or baseline.latest is None or not self._meets(baseline):
            return self
        since = baseline.latest + timedelta.resolution
        if self.until is not None and self.until <= since:
            return self  # looks back on purpose
        return replace(self, since=since)

    def overlaps(self, baseline: Baseline) -> bool:
        """Whether a trajectory may be in the reference period as well."""
        if not self._meets(baseline):
            return False
        if baseline.latest is None:
            return True
        begins = self.since is None or self.since <= baseline.latest
        since = None if baseline.since is None else datetime.fromisoformat(baseline.since)
        return begins and (self.until is None or since is None or self.until > since)

    def _meets(self, baseline: Baseline) -> bool:
        if None not in (self.source, baseline.source) and self.source != baseline.source:
            return False
        one, other = self.from_model, baseline.from_model
        if one is None or other is None:
            return True
        return is_version_of(one, other) or is_version_of(other, one)

    def covers(self, began: datetime | None) -> bool:
        """Whether what began then is in the period; if nobody knows, where it has no ends."""
        if began is None:
            return self.since is None and self.until is None
        return (self.since is None or began >= self.since) and (
            self.until is None or began < self.until
        )

    def _takes(self, transition: Transition) -> bool:
        if self.from_model is not None and not transition.is_by(self.from_model):
            return False
        return bucket(transition.id, 2**64) < self.sample * 2**64


def bucket(name: str, buckets: int) -> int:
    """One of the buckets, by a hash: the same one every time."""
    text = name.encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.sha256(_DOMAIN + text).digest()[:8], "big") % buckets


def _beginning(trajectory: Trajectory) -> datetime | None:
    """When a trajectory began, as far as it says so; without a zone it is UTC."""
    times = (trajectory.started_at, *(step.started_at for step in trajectory.steps))
    began = next((time for time in times if time is not None), None)
    return began if began is None or began.tzinfo else began.replace(tzinfo=UTC)
