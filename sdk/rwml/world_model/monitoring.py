"""Watches recorded traffic with a world model: which tools have come to surprise it.

Surprise rises when the environment changes (an API's new shape, a policy, an outage), and when
agents use it in ways they did not. A tool that surprised the model as much as a trivial predictor
in the reference period says nothing by surprising it: it is told apart and raises no alarm. Texts
are looked at a batch at a time and not kept, but for a bounded sample of next states.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice
from typing import Literal

from rwml.encoders import Encoder, gaps
from rwml.errors import UsageError, WorldModelError
from rwml.prompts.profiles import result_text
from rwml.schema import Kind, Transition
from rwml.store import Store
from rwml.world_model.baseline import Baseline, ToolBaseline
from rwml.world_model.drift import FALSE_ALARMS, MIN_SHIFT, Group, Shift, find_shifts, mean_surprise
from rwml.world_model.model import WorldModel
from rwml.world_model.predictions import Scored
from rwml.world_model.selection import Selection, bucket

BATCH = 256
"""Transitions that are asked about at once (ours)."""
MAX_GROUPS = 5_000
"""Buckets into which the hashes of a tool's tasks or threads fall: what bounds memory, the file and
the test. Those of one bucket count as one (ours)."""
SAMPLED = 256
"""Next states of each tool, the first ones, from which trivial predictors are measured (ours)."""

Seen = tuple[Transition, Scored]
Track = Callable[[Iterable[Seen]], Iterable[Seen]]

Status = Literal["drift", "steady", "unpredictable", "new", "too few", "unscored", "measured"]
"""Has become more surprising; has not; was never predictable; not in the baseline; too few tasks
or threads to tell; nothing could be scored; there is no baseline to compare with."""


@dataclass(frozen=True)
class ToolReport:
    """What was found of one tool, or of one kind where no single tool was called.

    Attributes:
        kind: who answered.
        tool: None where none or several different ones were called.
        status: see `Status`.
        transitions: that were looked at.
        missing: those without a surprise, by reason (`Scored.missing`).
        surprise: mean, from 0 to 2; None where there is none.
        baseline: mean of the reference period.
        shift: the first minus the second.
        p_value: chance of such a shift, had nothing changed; None where it was not tested.
        trivial_gap: of the reference period, else of now: what knowing nothing would give.
    """

    kind: Kind
    tool: str | None
    status: Status
    transitions: int
    missing: dict[str, int]
    surprise: float | None
    baseline: float | None
    shift: float | None
    p_value: float | None
    trivial_gap: float | None

    @property
    def name(self) -> str:
        """The tool, or the kind in brackets."""
        return self.tool or f"({self.kind})"


class Monitor:
    """Takes in scored transitions; `measured` and `compare` say what they come to.

    Args:
        encoder: measures the trivial predictors; caches, so that what was embedded is not again.
        mask_tools: whether JSON tool results are compared as schemas.
    """

    def __init__(self, encoder: Encoder, *, mask_tools: bool) -> None:
        self._encoder = encoder
        self._mask_tools = mask_tools
        self._tools: dict[tuple[Kind, str | None], _Tally] = {}
        self.latest: datetime | None = None

    def note_beginning(self, began: datetime) -> None:
        """Takes in when a trajectory began; `latest` is the last of these times."""
        self.latest = began if self.latest is None else max(began, self.latest)

    def add(self, transition: Transition, scored: Scored) -> None:
        """Takes in a transition that was scored."""
        tally = self._tools.setdefault((transition.kind, transition.tool), _Tally())
        said = [message for message in transition.context if message.role != "system"]
        last = result_text(said[-1], masked=self._mask_tools).text if said else ""
        tally.add(scored, transition.group, last)

    @property
    def scored(self) -> int:
        """Transitions with a surprise so far."""
        return sum(g.count for t in self._tools.values() for g in t.samples)

    @property
    def missing(self) -> Counter[str]:
        """Transitions without one so far, by reason."""
        return sum((tally.missing for tally in self._tools.values()), Counter())

    @property
    def detail(self) -> str:
        """What the endpoint said to the first prompt that it refused."""
        return next((tally.detail for tally in self._tools.values() if tally.detail), "")

    def measured(self) -> tuple[ToolBaseline, ...]:
        """What a later look is compared with."""
        return tuple(
            ToolBaseline(
                kind=kind,
                tool=tool,
                transitions=tally.transitions,
                groups=tuple((group.total, group.count) for group in tally.samples),
                trivial_gap=tally.trivial_gap(self._encoder),
            )
            for (kind, tool), tally in self._in_order()
        )

    def compare(
        self,
        reference: Sequence[ToolBaseline] | None,
        *,
        false_alarms: float = FALSE_ALARMS,
        min_shift: float = MIN_SHIFT,
    ) -> list[ToolReport]:
        """What every tool comes to, beside the reference period.

        Args:
            reference: its tools; None to compare with nothing.
            false_alarms: share of looks at unchanged traffic that raise any alarm, at most.
            min_shift: smallest rise of mean surprise that is worth an alarm.

        Raises:
            MissingExtraError: scipy is not installed.
        """
        before = {(each.kind, each.tool): each for each in reference or ()}
        names = {str(key): key for key in self._tools if key in before}
        shifts = find_shifts(
            {name: (before[key].samples, self._tools[key].samples) for name, key in names.items()},
            untested=[name for name, key in names.items() if not before[key].is_predictable],
            false_alarms=false_alarms,
            min_shift=min_shift,
        )
        return [
            self._report(key, tally, before.get(key), shifts.get(str(key)), reference is not None)
            for key, tally in self._in_order()
        ]

    def _in_order(self) -> list[tuple[tuple[Kind, str | None], _Tally]]:
        return sorted(self._tools.items(), key=lambda item: (item[0][0], item[0][1] or ""))

    def _report(
        self,
        key: tuple[Kind, str | None],
        tally: _Tally,
        before: ToolBaseline | None,
        shift: Shift | None,
        is_compared: bool,
    ) -> ToolReport:
        surprise = mean_surprise(tally.samples)
        known = None if before is None else before.surprise
        moved = None if surprise is None or known is None else surprise - known
        trivial = before.trivial_gap if before else tally.trivial_gap(self._encoder)
        return ToolReport(
            kind=key[0],
            tool=key[1],
            status=_status(surprise, before, shift, is_compared=is_compared),
            transitions=tally.transitions,
            missing=dict(tally.missing),
            surprise=surprise,
            baseline=known,
            shift=moved,
            p_value=None if shift is None else shift.p_value,
            trivial_gap=trivial,
        )


def watch(
    world: WorldModel,
    store: Store,
    selection: Selection,
    *,
    batch: int = BATCH,
    note: Callable[[datetime], None] | None = None,
) -> Iterator[Seen]:
    """Scores the selected transitions, a batch of them in memory at a time.

    Args:
        world: that is asked.
        store: with the recorded traffic.
        selection: of it.
        batch: transitions at once.
        note: see `Selection.pick`.

    Raises:
        WorldModelError, ModelError, RewardError: see `WorldModel.score_many`.
    """
    waiting: Iterator[Transition] = selection.pick(store, history=world.history, note=note)
    while found := list(islice(waiting, batch)):
        yield from zip(found, world.score_many(found), strict=True)


def look(world: WorldModel, store: Store, selection: Selection, *, track: Track = iter) -> Monitor:
    """Takes in every selected transition.

    Args:
        world: that is asked.
        store: with the recorded traffic.
        selection: of it.
        track: wraps what `watch` gives, to show progress.

    Raises:
        UsageError: there is no transition to look at.
        WorldModelError: none could be scored; it says why. Or the endpoint fails.
        ModelError: prompts must be measured, and the tokenizer cannot be loaded.
        RewardError: there is no encoder, or it fails.
    """
    taken = Monitor(world.encoder, mask_tools=world.prompts.mask_tools)
    for transition, scored in track(watch(world, store, selection, note=taken.note_beginning)):
        taken.add(transition, scored)
    if not taken.scored:
        if not taken.missing:
            raise UsageError(f"{store.url} holds no such transition: record some, or choose more")
        reasons = ", ".join(f"{number} {reason}" for reason, number in taken.missing.items())
        said = f" ({taken.detail})" if taken.detail else ""
        raise WorldModelError(f"no transition could be scored by {world.name}: {reasons}{said}")
    return taken


def describe(world: WorldModel, store: Store, selection: Selection, monitor: Monitor) -> Baseline:
    """A look as the reference period of later ones."""
    return Baseline(
        model=world.name,
        encoder=world.encoder.name,
        prompts=world.prompts,
        store=store.url,
        source=selection.source,
        from_model=selection.from_model,
        since=None if selection.since is None else selection.since.isoformat(),
        until=None if selection.until is None else selection.until.isoformat(),
        latest=monitor.latest,
        tools=monitor.measured(),
    )


def check_baseline(baseline: Baseline, world: WorldModel) -> None:
    """Refuses a reference period that was measured in another way.

    Raises:
        UsageError: model, encoder or prompts differ.
    """
    pairs = {
        "model": (baseline.model, world.name),
        "encoder": (baseline.encoder, world.encoder.name),
        "prompts": (baseline.prompts, world.prompts),
    }
    other = [name for name, (then, now) in pairs.items() if then != now]
    if other:
        raise UsageError(
            f"the baseline was measured with another {' and '.join(other)}, so surprise does not "
            f"compare: write it again with --write-baseline"
        )


@dataclass
class _Tally:
    """What was seen of one tool."""

    transitions: int = 0
    missing: Counter[str] = field(default_factory=Counter)
    detail: str = ""
    groups: dict[int, list[float]] = field(default_factory=dict)  # sum and count by bucket
    texts: list[tuple[str, str]] = field(default_factory=list)  # next state, and the last message

    def add(self, scored: Scored, group: str, last: str) -> None:
        self.transitions += 1
        if scored.surprise is None:
            self.missing[str(scored.missing)] += 1
            self.detail = self.detail or scored.prediction.detail
            return
        sums = self.groups.setdefault(bucket(group, MAX_GROUPS), [0.0, 0])
        sums[0] += scored.surprise
        sums[1] += 1
        if len(self.texts) < SAMPLED:
            self.texts.append((scored.next_state, last))

    @property
    def samples(self) -> list[Group]:
        return [Group(total, int(count)) for total, count in self.groups.values()]

    def trivial_gap(self, encoder: Encoder) -> float | None:
        """Mean gap of the better trivial predictor; None where nothing was scored."""
        if not self.texts:
            return None
        targets = [target for target, _ in self.texts]
        commonest = Counter(targets).most_common(1)[0][0]
        copies = [(last, target) for target, last in self.texts if last.strip()]
        constant = sum(gaps(encoder, [commonest] * len(targets), targets))
        # Nothing to copy predicts nothing, and endpoints refuse to embed it: as far as can be.
        copied = sum(gaps(encoder, *map(list, zip(*copies, strict=True)))) if copies else 0.0
        copied += len(targets) - len(copies)
        return min(constant, copied) / len(targets)


def _status(
    surprise: float | None, before: ToolBaseline | None, shift: Shift | None, *, is_compared: bool
) -> Status:
    if surprise is None:
        return "unscored"
    if not is_compared:
        return "measured"
    if before is None or before.surprise is None:
        return "new"
    if not before.is_predictable:
        return "unpredictable"
    if shift is None or shift.p_value is None:
        return "too few"
    return "drift" if shift.is_alarm else "steady"
