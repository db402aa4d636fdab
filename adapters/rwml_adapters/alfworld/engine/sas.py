"""Reads a grounded planning task in Fast Downward's SAS format, version 3.

Only what a game needs is kept: costs and mutexes are skipped. A literal is ``2 * variable +
value``; all variables are binary, as TextWorld translates without invariants, and value 0 is the
fact itself. Source: the format's page on fast-downward.org.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from rwml.errors import AdapterError


@dataclass(frozen=True)
class SasEffect:
    """One effect: `literal` becomes true when all `conditions` (literals) held before."""

    literal: int
    conditions: tuple[int, ...]


@dataclass(frozen=True)
class SasOperator:
    """A grounded action: its name with its arguments, its sorted preconditions, its effects."""

    name: str
    preconditions: tuple[int, ...]
    effects: tuple[SasEffect, ...]


@dataclass(frozen=True, kw_only=True)
class SasTask:
    """A grounded task.

    Attributes:
        facts: per variable the fact of its value 0, ``Atom opened(fridge)``.
        layers: per variable its axiom layer; -1 for variables that operators set.
        initial: value per variable (of derived ones, their default).
        goal: literals.
        operators: in the file's order.
        axioms: ``(conditions, literal)``.
    """

    facts: tuple[str, ...]
    layers: tuple[int, ...]
    initial: tuple[int, ...]
    goal: tuple[int, ...]
    operators: tuple[SasOperator, ...]
    axioms: tuple[tuple[tuple[int, ...], int], ...]


def read_sas(text: str) -> SasTask:
    """Reads a task.

    Raises:
        AdapterError: the text is of another version, or has variables with more than two values.
    """
    lines = iter(text.split("\n"))
    try:
        return _read(lines)
    except (StopIteration, ValueError, IndexError) as error:
        raise AdapterError(f"the planner's translation cannot be read: {error}") from error


def _read(lines: Iterator[str]) -> SasTask:
    _expect(lines, "begin_version", "3", "end_version", "begin_metric")
    next(lines)
    _expect(lines, "end_metric")
    variables = [_variable(lines) for _ in range(int(next(lines)))]
    for _ in range(int(next(lines))):
        while next(lines) != "end_mutex_group":
            pass
    _expect(lines, "begin_state")
    initial = tuple(int(next(lines)) for _ in variables)
    _expect(lines, "end_state", "begin_goal")
    goal = _facts(lines)
    _expect(lines, "end_goal")
    operators = tuple(_operator(lines) for _ in range(int(next(lines))))
    axioms = tuple(_axiom(lines) for _ in range(int(next(lines))))
    return SasTask(
        facts=tuple(fact for fact, _ in variables),
        layers=tuple(layer for _, layer in variables),
        initial=initial,
        goal=goal,
        operators=operators,
        axioms=axioms,
    )


def _expect(lines: Iterator[str], *words: str) -> None:
    for word in words:
        if (found := next(lines)) != word:
            raise ValueError(f"{word} expected, not {found[:40]!r}")


def _variable(lines: Iterator[str]) -> tuple[str, int]:
    _expect(lines, "begin_variable")
    next(lines)
    layer, values = int(next(lines)), int(next(lines))
    fact, other = next(lines), next(lines)
    if values != 2 or other != f"Negated{fact}":
        raise ValueError(f"the variable of {fact!r} is not binary")
    _expect(lines, "end_variable")
    return fact, layer


def _facts(lines: Iterator[str]) -> tuple[int, ...]:
    pairs = (next(lines).split() for _ in range(int(next(lines))))
    return tuple(2 * int(variable) + int(value) for variable, value in pairs)


def _operator(lines: Iterator[str]) -> SasOperator:
    _expect(lines, "begin_operator")
    name = next(lines)
    preconditions = list(_facts(lines))
    effects: list[SasEffect] = []
    for _ in range(int(next(lines))):
        numbers = [int(word) for word in next(lines).split()]
        conditions = tuple(
            2 * numbers[at] + numbers[at + 1] for at in range(1, 1 + 2 * numbers[0], 2)
        )
        variable, before, after = numbers[-3:]
        if before >= 0:
            preconditions.append(2 * variable + before)
        effects.append(SasEffect(2 * variable + after, conditions))
    next(lines)  # the cost
    _expect(lines, "end_operator")
    return SasOperator(name.strip(), tuple(sorted(preconditions)), tuple(effects))


def _axiom(lines: Iterator[str]) -> tuple[tuple[int, ...], int]:
    _expect(lines, "begin_rule")
    conditions = _facts(lines)
    variable, _, after = (int(word) for word in next(lines).split())  # from its default, always
    _expect(lines, "end_rule")
    return conditions, 2 * variable + after
