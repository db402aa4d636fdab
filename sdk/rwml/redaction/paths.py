r"""Paths that say what of a record stays or goes: ``action.tool_calls.*.arguments.ssn``.

A path names keys and places in lists, with a dot between them; ``*`` is any one, ``**`` any number
of them, also none. A dot in a key is written ``\.``. The root is a stored body: a step, or a
trajectory without its steps. The places of a step are also reached from its trajectory, as
``steps.0.action``. Source: ours.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from rwml.errors import UsageError
from rwml.redaction.plans import Part, Plan, plan_of
from rwml.schema import Step, Trajectory

States = frozenset[tuple[int, int]]
"""How far each path has come: its number, and the number of segments that fit."""
NOWHERE: States = frozenset()


class Paths:
    """Paths that are followed together.

    Args:
        paths: see above.

    Raises:
        UsageError: a path cannot be read, or can match nothing.
    """

    def __init__(self, paths: Sequence[str]) -> None:
        if isinstance(paths, str):
            raise UsageError(f"paths are a list of texts, not the text {paths!r}")
        self._paths = [_segments(path) for path in paths]
        self.at_root = self._closed((number, 0) for number in range(len(self._paths)))
        for number, path in enumerate(paths):
            start = self._closed([(number, 0)])
            roots = ((plan_of(Trajectory), start), (plan_of(Step), start))
            if not any(self._reaches(plan, states) for plan, states in roots):
                raise UsageError(f"the path {path!r} can match nothing in a step or a trajectory")

    @property
    def keys(self) -> list[str | None]:
        """Of each path, a key that a record must have for it to match; None where that is open."""
        return [
            next((s for s in reversed(path[path[0] == "steps" :]) if _is_key(s)), None)
            for path in self._paths
        ]

    def in_step(self, index: str) -> States:
        """Where the paths stand at the root of a step's body."""
        return self.at_root | self.next(self.next(self.at_root, "steps"), index)

    def next(self, states: States, key: str) -> States:
        """Where they stand one key further."""
        further: list[tuple[int, int]] = []
        for number, place in states:
            path = self._paths[number]
            if place < len(path):
                if path[place] == "**":
                    further.append((number, place))
                elif path[place] in ("*", key):
                    further.append((number, place + 1))
        return self._closed(further) if further else NOWHERE

    def match(self, states: States) -> bool:
        """Whether a path ends here."""
        return any(place == len(self._paths[number]) for number, place in states)

    def _closed(self, states: Iterable[tuple[int, int]]) -> States:
        closed: set[tuple[int, int]] = set()
        for number, place in states:
            path = self._paths[number]
            closed.add((number, place))
            while place < len(path) and path[place] == "**":
                place += 1
                closed.add((number, place))
        return frozenset(closed)

    def _reaches(self, plan: Plan, states: States) -> bool:
        if not states or self.match(states):
            return bool(states)
        if plan.part is Part.FIELDS:
            return any(self._reaches(p, self.next(states, n)) for n, p in plan.fields.items())
        if plan.part is Part.ITEMS and plan.items is not None:
            wanted = {self._paths[n][p] for n, p in states if p < len(self._paths[n])}
            places = {s for s in wanted if s.isdecimal()} | {"0"}
            return any(self._reaches(plan.items, self.next(states, place)) for place in places)
        return plan.part in (Part.OPEN, Part.OPEN_OBJECT)


def _is_key(segment: str) -> bool:
    return segment.isidentifier()  # neither a wildcard nor a place, and spelled alike in JSON


def _segments(path: str) -> tuple[str, ...]:
    if not isinstance(path, str):
        raise UsageError(f"a path is a text such as 'metadata.user', not {path!r}")
    segments = tuple(part.replace("\\.", ".") for part in re.split(r"(?<!\\)\.", path))
    if not all(segments):
        raise UsageError(f"the path {path!r} has an empty part: write it as 'metadata.user'")
    wrong = [s for s in segments if "*" in s and s not in ("*", "**")]
    if wrong or any("[" in s for s in segments):
        raise UsageError(
            f"the path {path!r} cannot be read: a part is a key, a number, '*' or '**'"
        )
    return segments
