"""Derived facts, such as that the goal holds: worked out from the others, layer by layer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeAlias

Axiom: TypeAlias = tuple[tuple[int, ...], int]
"""Literals, and the literal that is true when they all are."""


def layered(axioms: Iterable[Axiom], layers: Sequence[int]) -> list[list[Axiom]]:
    """The axioms by the layer of what they derive, in the order to work them out.

    Args:
        axioms: of a task.
        layers: axiom layer of each variable.
    """
    found: dict[int, list[Axiom]] = {}
    for axiom in axioms:
        found.setdefault(layers[axiom[1] >> 1], []).append(axiom)
    return [found[layer] for layer in sorted(found)]


def derive(values: list[int], layers: Iterable[Iterable[Axiom]]) -> None:
    """Works the derived variables out in place; they hold their defaults before."""
    for axioms in layers:
        changed = True
        while changed:
            changed = False
            for conditions, literal in axioms:
                if values[literal >> 1] != literal & 1 and all(
                    values[condition >> 1] == condition & 1 for condition in conditions
                ):
                    values[literal >> 1] = literal & 1
                    changed = True
