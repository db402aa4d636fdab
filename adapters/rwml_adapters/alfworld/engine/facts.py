"""What is true in a game, as its text rules see it, and the questions they ask about it.

A fact is a tuple of numbers of things, kept per predicate in TextWorld's order, which is the
order of what an agent reads. A fact that was taken back leaves its negation behind, and an effect
counts whether its condition held or not: both as in TextWorld's text state, which is not the
planner's.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

from rwml.errors import AdapterError

Placeholder: TypeAlias = tuple[str, str]
"""Name and type; both count."""

Mapped: TypeAlias = dict[Placeholder, int]
"""Placeholders with the things they stand for."""

Rows: TypeAlias = list[tuple[int, ...]]

Index: TypeAlias = dict[int, dict[int, dict[int, Rows]]]
"""Facts by signature, position and the thing that is there."""


class Predicate(NamedTuple):
    """One part of a query.

    Attributes:
        name: of the predicate.
        signatures: where its facts are, in order; None when it names a type the game lacks.
        placeholders: its arguments.
    """

    name: str
    signatures: tuple[int, ...] | None
    placeholders: tuple[Placeholder, ...]


Query: TypeAlias = tuple[Predicate, ...]


def load_query(data: Sequence[Sequence[Any]]) -> Query:
    """A query from the plain data of the compiler."""
    return tuple(
        Predicate(
            name,
            None if signatures is None else tuple(signatures),
            tuple((part, kind) for part, kind in placeholders),
        )
        for name, signatures, placeholders in data
    )


class Facts:
    """The facts of one game being played.

    Args:
        start: facts by signature, sorted; not changed.
        index: of those, filled as they are asked; shared by the episodes of a game.
    """

    def __init__(self, start: Sequence[Rows], index: Index) -> None:
        self._rows: list[Rows] = list(start)
        self._shared = index
        self._changed: Index = {}

    def add(self, signature: int, row: tuple[int, ...]) -> None:
        """Makes a fact true."""
        rows = self._changeable(signature)
        at = bisect_left(rows, row)
        if at == len(rows) or rows[at] != row:
            rows.insert(at, row)

    def remove(self, signature: int, row: tuple[int, ...]) -> None:
        """Forgets a fact, if it was true."""
        rows = self._rows[signature]
        at = bisect_left(rows, row)
        if at < len(rows) and rows[at] == row:
            del self._changeable(signature)[at]

    def rows(self, signature: int) -> Rows:
        """The facts of a signature, sorted; not to be changed."""
        return self._rows[signature]

    def matches(self, query: Query, mapped: Mapping[Placeholder, int]) -> Iterator[Mapped]:
        """Every way in which the query is true; different placeholders stand for different things.

        Args:
            query: what is asked.
            mapped: what placeholders stand for already.

        Raises:
            AdapterError: the query names a type that the game does not have.
        """
        current = dict(mapped)
        return self._search(query, 0, current, set(current.values()))

    def _search(self, query: Query, depth: int, mapped: Mapped, used: set[int]) -> Iterator[Mapped]:
        if depth == len(query):
            yield dict(mapped)
            return
        name, signatures, placeholders = query[depth]
        if signatures is None:
            raise AdapterError(f"the game's grammar asks {name!r} about a type the game lacks")
        fresh = [placeholder for placeholder in placeholders if placeholder not in mapped]
        for signature in signatures:
            # The rows cannot change while a text is made.
            for row in self._candidates(signature, placeholders, mapped):
                if _fits(placeholders, row, mapped, used):
                    yield from self._search(query, depth + 1, mapped, used)
                for placeholder in fresh:
                    used.discard(mapped.pop(placeholder, -1))

    def _candidates(
        self, signature: int, placeholders: tuple[Placeholder, ...], mapped: Mapped
    ) -> Rows:
        """The facts that have what the first known placeholder stands for in its place."""
        for position, placeholder in enumerate(placeholders):
            thing = mapped.get(placeholder)
            if thing is not None:
                return self._by_thing(signature, position).get(thing, [])
        return self._rows[signature]

    def _by_thing(self, signature: int, position: int) -> dict[int, Rows]:
        """The facts of a signature by the thing in one place, each still sorted."""
        changed = self._changed.get(signature)
        index = self._shared.setdefault(signature, {}) if changed is None else changed
        found = index.get(position)
        if found is None:
            found = {}
            for row in self._rows[signature]:
                found.setdefault(row[position], []).append(row)
            index[position] = found
        return found

    def _changeable(self, signature: int) -> Rows:
        if signature not in self._changed:
            self._rows[signature] = self._rows[signature].copy()
        self._changed[signature] = {}
        return self._rows[signature]


def _fits(
    placeholders: tuple[Placeholder, ...], row: tuple[int, ...], mapped: Mapped, used: set[int]
) -> bool:
    """Takes the row's things for the placeholders; what was taken is given back by the caller."""
    for placeholder, thing in zip(placeholders, row, strict=True):
        existing = mapped.get(placeholder)
        if existing is None:
            if thing in used:
                return False
            mapped[placeholder] = thing
            used.add(thing)
        elif existing != thing:
            return False
    return True
