"""Finds commands that win, from any state of a compiled game.

TextWorld's own planner searches blindly, which takes minutes in a large kitchen. This one is
guided by the plan that would do if nothing were ever undone (the FF heuristic, Hoffmann and Nebel
2001), over the same operators; its plans are short but not always the shortest.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from typing import NamedTuple

from rwml_adapters.alfworld.engine.axioms import derive
from rwml_adapters.alfworld.engine.compiled import CompiledGame

MAX_STATES = 20_000
"""States looked at before a search is given up (ours; games need a few hundred)."""

_FOREVER = 1 << 30


class _Rule(NamedTuple):
    """Something that makes literals true when others are.

    Attributes:
        operator: the operator that does it; None for an axiom, which costs nothing.
        needs: literals.
        makes: literals.
    """

    operator: int | None
    needs: tuple[int, ...]
    makes: tuple[int, ...]


class Planner:
    """The planner of one game; it keeps nothing of a search.

    Args:
        game: the game.
    """

    def __init__(self, game: CompiledGame) -> None:
        self._game = game
        self._rules = _relevant(_rules(game), game.goal)
        self._needed: dict[int, list[int]] = {}
        for number, rule in enumerate(self._rules):
            for literal in rule.needs:
                self._needed.setdefault(literal, []).append(number)

    def plan(self, values: Sequence[int]) -> list[int]:
        """Operators that lead to the goal; empty when it holds, or when no plan was found.

        Args:
            values: per variable of the game.
        """
        start = tuple(values)
        guess, choices = self._look(start)
        queue = [(guess, guess, 0, start, choices)]
        came: dict[tuple[int, ...], tuple[tuple[int, ...], int] | None] = {start: None}
        depth = {start: 0}
        while queue and len(came) < MAX_STATES:
            _, left, _, state, choices = heapq.heappop(queue)
            if left == 0:
                return _steps(came, state)
            for operator in choices:
                after = self._after(state, operator)
                if after in came:
                    continue
                came[after] = (state, operator)
                depth[after] = depth[state] + 1
                guess, further = self._look(after)
                if guess < _FOREVER:
                    entry = (depth[after] + guess, guess, len(came), after, further)
                    heapq.heappush(queue, entry)
        return []

    def _look(self, state: tuple[int, ...]) -> tuple[int, list[int]]:
        """How many operators a plan without undoing needs from here, and what can be done here."""
        costs = {2 * variable + value: 0 for variable, value in enumerate(state)}
        makers: dict[int, int] = {}
        missing = [len(rule.needs) for rule in self._rules]
        sums = [0] * len(missing)
        possible: dict[int, None] = {}
        waiting = [(0, literal) for literal in costs]
        waiting += [(0, -1 - number) for number, count in enumerate(missing) if not count]
        while waiting:
            cost, literal = heapq.heappop(waiting)
            if literal < 0:
                ready = [-1 - literal]
            elif costs[literal] < cost:
                continue
            else:
                ready = []
                for number in self._needed.get(literal, ()):
                    missing[number] -= 1
                    sums[number] += cost
                    if not missing[number]:
                        ready.append(number)
            for number in ready:
                operator, _, makes = self._rules[number]
                if operator is not None and sums[number] == 0:
                    possible[operator] = None
                total = sums[number] + (operator is not None)
                for made in makes:
                    if total < costs.get(made, _FOREVER):
                        costs[made] = total
                        makers[made] = number
                        heapq.heappush(waiting, (total, made))
        return self._length(costs, makers), list(possible)

    def _length(self, costs: dict[int, int], makers: dict[int, int]) -> int:
        """Operators in the plan that the makers give for the goal."""
        used: set[int] = set()
        done: set[int] = set()
        waiting = list(self._game.goal)
        while waiting:
            literal = waiting.pop()
            if literal not in costs:
                return _FOREVER
            if literal in done or literal not in makers:
                continue
            done.add(literal)
            operator, needs, _ = self._rules[makers[literal]]
            if operator is not None:
                used.add(operator)
            waiting += needs
        return len(used)

    def _after(self, state: tuple[int, ...], operator: int) -> tuple[int, ...]:
        game, values = self._game, list(state)
        for literal, conditions, _, _ in game.effects(operator):
            if all(state[condition >> 1] == condition & 1 for condition in conditions):
                values[literal >> 1] = literal & 1
        for variable, default in game.derived:
            values[variable] = default
        derive(values, game.axioms)
        return tuple(values)


def _rules(game: CompiledGame) -> list[_Rule]:
    rules = [
        _Rule(None, conditions, (literal,))
        for layer in game.axioms
        for conditions, literal in layer
    ]
    for operator, needs in enumerate(game.preconditions):
        always = tuple(effect.literal for effect in game.effects(operator) if not effect.conditions)
        rules.append(_Rule(operator, tuple(needs), always))
        rules += [
            _Rule(operator, (*needs, *effect.conditions), (effect.literal,))
            for effect in game.effects(operator)
            if effect.conditions
        ]
    return rules


def _relevant(rules: list[_Rule], goal: Sequence[int]) -> list[_Rule]:
    """The rules that can matter to the goal."""
    makers: dict[int, list[_Rule]] = {}
    for rule in rules:
        for literal in rule.makes:
            makers.setdefault(literal, []).append(rule)
    wanted, waiting = set(goal), list(goal)
    while waiting:
        for rule in makers.get(waiting.pop(), ()):
            fresh = [literal for literal in rule.needs if literal not in wanted]
            wanted.update(fresh)
            waiting += fresh
    return [rule for rule in rules if not wanted.isdisjoint(rule.makes)]


def _steps(
    came: dict[tuple[int, ...], tuple[tuple[int, ...], int] | None], state: tuple[int, ...]
) -> list[int]:
    steps: list[int] = []
    before = came[state]
    while before is not None:
        state, operator = before
        steps.append(operator)
        before = came[state]
    return steps[::-1]
