"""Whole files of completions: put in order of time, then assembled.

Logs are written when calls end and exports in any order. A response is always taken before the
requests that answer it, whatever the clocks say; beyond that the order of time decides.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from rwml.assemble.assembler import Assembler
from rwml.assemble.completion import Completion
from rwml.assemble.digests import Digests, Hasher
from rwml.errors import UsageError
from rwml.records import HeaderRecord, Record
from rwml.schema import Fingerprint, Step, Trajectory

_Entry = tuple[Completion, Digests]
_Place = tuple[float, int, bytes, int]
"""Seconds, messages in the request, digest, order of arrival: what comes first is taken first."""


def assemble(
    completions: Iterable[Completion],
    *,
    key: bytes,
    source: str,
    fingerprint: Fingerprint | None = None,
    window: int | None = None,
    kept: int | None = None,
) -> Iterator[Trajectory]:
    """Rebuilds the trajectories behind a stream of completions.

    With all completions dated and neither bound set, the result does not depend on their order.
    Without dates, branches and cut histories are told apart by the order of arrival.

    Args:
        completions: in any order.
        key: secret of 1 to 64 bytes; the same key gives the same ids.
        source: of the trajectories.
        fingerprint: put on each of them.
        window: how many completions are held to be put in order; None for all of them.
        kept: how many trajectories stay open; None for all of them. A trajectory that is
            continued after it was closed is split in two.

    Raises:
        UsageError: the key or a bound cannot be used.
    """
    if window is not None and window < 0:
        raise UsageError(f"a window must hold 0 or more completions, not {window}")
    closed: list[str] = []
    assembler = Assembler(
        key=key, source=source, fingerprint=fingerprint, kept=kept, closed=closed.append
    )
    return _assemble(assembler, in_order(completions, assembler.hasher, window=window), closed)


def in_order(
    completions: Iterable[Completion],
    hasher: Hasher,
    *,
    window: int | None,
    window_chars: int | None = None,
) -> Iterator[_Entry]:
    """Puts completions in order of time, each after the one that it answers.

    Args:
        completions: in any order.
        hasher: whose digests say what answers what.
        window: how many are held back; None for all of them.
        window_chars: how many characters of requests are held back; None for any number.
    """
    held = _Held()
    counter = itertools.count()
    now = float("-inf")
    for completion in completions:
        digests = hasher.completion(completion)
        arrival = next(counter)
        if completion.started_at is None:
            place = (now, 0, b"", arrival)
        else:
            now = completion.started_at.timestamp()
            identity = digests.action or digests.request
            place = (now, len(completion.messages), identity, arrival)
        held.push(place, (completion, digests))
        while held.waiting and (
            (window is not None and len(held.waiting) > window)
            or (window_chars is not None and held.chars > window_chars)
        ):
            yield from held.pop()
    while held.waiting:
        yield from held.pop()


class _Held:
    """Entries that are held back, by time and by what answers what.

    Attributes:
        waiting: their places; of some the entry was taken before.
        chars: of their requests.
    """

    def __init__(self) -> None:
        self.chars = 0
        self.waiting: list[_Place] = []
        self._entries: dict[_Place, tuple[_Entry, int]] = {}
        self._places: dict[bytes, _Place] = {}

    def push(self, place: _Place, entry: _Entry) -> None:
        heapq.heappush(self.waiting, place)
        chars = _chars(entry[0])
        self._entries[place] = (entry, chars)
        self.chars += chars
        action = entry[1].action
        if action is not None:
            # of several that are equal the earliest counts, as without this
            self._places[action] = min(place, self._places.get(action, place))

    def pop(self) -> list[_Entry]:
        """The earliest entry, after those that it answers; empty if it was taken before."""
        taken: list[_Entry] = []
        place: _Place | None = heapq.heappop(self.waiting)
        while place is not None:
            found = self._entries.pop(place, None)
            if found is None:
                break
            entry, chars = found
            taken.append(entry)
            self.chars -= chars
            if entry[1].action is not None and self._places.get(entry[1].action) == place:
                del self._places[entry[1].action]
            place = None if entry[1].parent is None else self._places.get(entry[1].parent)
        return taken[::-1]


def _chars(completion: Completion) -> int:
    history = completion.history
    if history is not None and history.messages is completion.messages:
        return history.chars
    return sum(len(message.content or "") for message in completion.messages)


@dataclass
class _Collected:
    header: Trajectory
    steps: dict[int, Step] = field(default_factory=dict)

    def whole(self) -> Trajectory:
        steps = tuple(self.steps[index] for index in sorted(self.steps))
        return self.header.model_copy(update={"steps": steps})


def _assemble(
    assembler: Assembler, entries: Iterator[_Entry], closed: list[str]
) -> Iterator[Trajectory]:
    collected: dict[str, _Collected] = {}
    for completion, digests in entries:
        for record in assembler.place(completion, digests):
            _collect(collected, record)
        for name in closed:
            yield collected.pop(name).whole()
        closed.clear()
    for found in collected.values():
        yield found.whole()


def _collect(collected: dict[str, _Collected], record: Record) -> None:
    if isinstance(record, HeaderRecord):
        header = record.trajectory
        collected.setdefault(header.id, _Collected(header=header)).header = header
    else:
        collected[record.trajectory_id].steps[record.step.index] = record.step
