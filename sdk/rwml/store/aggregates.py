"""What a store holds, in numbers: `Counts` by SQL alone, `Stats` with one streamed pass.

Success is counted only where somebody judged it: an infrastructure error is never a failure, and a
missing judgement is no judgement.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import accumulate
from typing import Any, Literal, overload

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from rwml.schema import Outcome, Step, Trajectory
from rwml.statistics import quantile
from rwml.store.rows import Reading, from_key, load, read_pages
from rwml.store.tables import steps, trajectories

MAX_NAMES = 1000
"""Tools and models counted by name; what comes later is counted as `OTHER` (ours)."""
OTHER = "(other)"

Judgement = Literal["success", "failed", "unjudged", "infrastructure"]
JUDGEMENTS: tuple[Judgement, ...] = ("success", "failed", "unjudged", "infrastructure")
QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}


@dataclass(frozen=True)
class Counts:
    """What a store holds, by one pass of SQL aggregates.

    Attributes:
        trajectories: recorded trajectories.
        transitions: steps whose next state is known.
        pending: steps still waiting for it.
        errors: transitions whose next state is an error.
        interrupted: steps that were cut off.
        orphans: tool results that answer no call, plus steps without a trajectory.
    """

    trajectories: int
    transitions: int
    pending: int
    errors: int
    interrupted: int
    orphans: int


@dataclass(frozen=True)
class Stats:
    """What a store is made of.

    Attributes:
        trajectories: recorded trajectories.
        steps: their steps, repeated attempts included.
        transitions: steps whose next state is known.
        by_source: trajectories by source.
        by_kind: transitions by who answered.
        by_status: steps by status.
        by_tool: calls by name of the tool.
        by_model: steps by model; those that name none are left out.
        outcomes: trajectories by judgement (`JUDGEMENTS`).
        success_rate: successes among the judged; None when nothing was judged.
        steps_per_trajectory: quantiles (`QUANTILES`); each None without a trajectory.
        first: earliest time in the store (UTC); None when no time was recorded.
        last: latest time.
    """

    trajectories: int
    steps: int
    transitions: int
    by_source: Mapping[str, int]
    by_kind: Mapping[str, int]
    by_status: Mapping[str, int]
    by_tool: Mapping[str, int]
    by_model: Mapping[str, int]
    outcomes: Mapping[Judgement, int]
    success_rate: float | None
    steps_per_trajectory: Mapping[str, float | None]
    first: datetime | None
    last: datetime | None


def count_rows(connection: Connection, wanted: Sequence[sa.ColumnElement[bool]]) -> Counts:
    """Counts what the store holds of the trajectories that meet the conditions."""
    mine = _steps_of(wanted)
    known_next = steps.c.kind.is_not(None)
    done = steps.c.status.in_(("ok", "error")) & known_next

    def count(table: sa.Table, *where: Any) -> int:
        query = sa.select(sa.func.count()).select_from(table).where(*where)
        return connection.scalar(query) or 0

    stray = sa.select(sa.func.coalesce(sa.func.sum(steps.c.orphans), 0)).where(mine)
    lost = steps.c.trajectory_id.not_in(sa.select(trajectories.c.id))
    return Counts(
        trajectories=count(trajectories, *wanted),
        transitions=count(steps, mine, done),
        pending=count(steps, mine, steps.c.status == "pending"),
        errors=count(steps, mine, steps.c.status == "error", known_next),
        interrupted=count(steps, mine, steps.c.status == "interrupted"),
        orphans=int(connection.scalar(stray) or 0) + (0 if wanted else count(steps, lost)),
    )


def gather_stats(reading: Reading, wanted: Sequence[sa.ColumnElement[bool]]) -> Stats:
    """Reads every matching body once, a page at a time; memory does not grow with the store."""
    tally = _Tally()
    for row in read_pages(reading, trajectories, *wanted):
        tally.add_header(load(Trajectory, row.body, row.id))
    for row in read_pages(reading, steps, _steps_of(wanted)):
        tally.add_step(load(Step, row.body, row.trajectory_id))
    with reading() as connection:
        sources = dict(_grouped(connection, trajectories.c.source, wanted))
        lengths = _Histogram(_lengths(connection, wanted))
    judged = tally.outcomes["success"] + tally.outcomes["failed"]
    return Stats(
        trajectories=tally.trajectories,
        steps=tally.steps,
        transitions=tally.kinds.total(),
        by_source={from_key(name): number for name, number in sources.items()},
        by_kind=_ranked(tally.kinds),
        by_status=_ranked(tally.statuses),
        by_tool=_ranked(tally.tools),
        by_model=_ranked(tally.models),
        outcomes={name: tally.outcomes[name] for name in JUDGEMENTS},
        success_rate=tally.outcomes["success"] / judged if judged else None,
        steps_per_trajectory={
            name: quantile(lengths, share) if lengths else None for name, share in QUANTILES.items()
        },
        first=tally.first,
        last=tally.last,
    )


def judge(outcome: Outcome) -> Judgement:
    """The judgement in an outcome."""
    if outcome.status == "infrastructure_error":
        return "infrastructure"
    if outcome.success is None:
        return "unjudged"
    return "success" if outcome.success else "failed"


@dataclass
class _Tally:
    trajectories: int = 0
    steps: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    statuses: Counter[str] = field(default_factory=Counter)
    tools: Counter[str] = field(default_factory=Counter)
    models: Counter[str] = field(default_factory=Counter)
    first: datetime | None = None
    last: datetime | None = None

    def add_header(self, trajectory: Trajectory) -> None:
        self.trajectories += 1
        self.outcomes[judge(trajectory.outcome)] += 1
        self._see(trajectory.started_at)

    def add_step(self, step: Step) -> None:
        self.steps += 1
        self.statuses[step.status] += 1
        if step.is_complete and step.kind is not None:
            self.kinds[step.kind] += 1
        for call in step.action.tool_calls:
            _count_name(self.tools, call.name)
        if step.model is not None:
            _count_name(self.models, step.model)
        self._see(step.started_at)

    def _see(self, time: datetime | None) -> None:
        if time is None:
            return
        time = time.astimezone(UTC) if time.tzinfo else time.replace(tzinfo=UTC)
        self.first = time if self.first is None else min(self.first, time)
        self.last = time if self.last is None else max(self.last, time)


class _Histogram(Sequence[float]):
    """A sorted sequence given as (value, how often), without spelling it out."""

    def __init__(self, groups: Iterable[tuple[int, int]]) -> None:
        pairs = sorted(groups)
        self._values = [value for value, _ in pairs]
        self._ends = list(accumulate(number for _, number in pairs))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    @overload
    def __getitem__(self, place: int) -> float: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[float]: ...
    def __getitem__(self, place: int | slice) -> float | Sequence[float]:
        if isinstance(place, slice):
            return [self[at] for at in range(*place.indices(len(self)))]
        if not 0 <= place < len(self):
            raise IndexError(place)
        return self._values[bisect_right(self._ends, place)]


def _steps_of(wanted: Sequence[sa.ColumnElement[bool]]) -> sa.ColumnElement[bool]:
    return steps.c.trajectory_id.in_(sa.select(trajectories.c.id).where(*wanted))


def _grouped(
    connection: Connection, column: sa.Column[Any], wanted: Sequence[sa.ColumnElement[bool]]
) -> Iterable[tuple[str, int]]:
    number = sa.func.count()
    query = sa.select(column, number).where(*wanted).group_by(column)
    ordered = query.order_by(number.desc(), column)
    return [(row[0], row[1]) for row in connection.execute(ordered)]


def _lengths(
    connection: Connection, wanted: Sequence[sa.ColumnElement[bool]]
) -> Iterable[tuple[int, int]]:
    """How many trajectories have each number of steps."""
    each = (
        sa.select(sa.func.count(steps.c.step_index).label("length"))
        .select_from(trajectories.outerjoin(steps, steps.c.trajectory_id == trajectories.c.id))
        .where(*wanted)
        .group_by(trajectories.c.id)
        .subquery()
    )
    query = sa.select(each.c.length, sa.func.count()).group_by(each.c.length)
    return [(row[0], row[1]) for row in connection.execute(query)]


def _count_name(counter: Counter[str], name: str) -> None:
    counter[name if name in counter or len(counter) < MAX_NAMES else OTHER] += 1


def _ranked(counter: Counter[str]) -> dict[str, int]:
    return dict(sorted(counter.items(), key=lambda item: (-item[1], item[0])))
