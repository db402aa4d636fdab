"""A compiled game, ready to be played many times: shared by its episodes, never changed by them.

It is loaded for every new environment, so what only a few steps need (an operator's arguments and
effects, the closures of an action's texts) stays text until it is asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any, NamedTuple

from rwml_adapters.alfworld.engine.axioms import Axiom, layered
from rwml_adapters.alfworld.engine.expressions import Entity
from rwml_adapters.alfworld.engine.facts import (
    Facts,
    Index,
    Mapped,
    Placeholder,
    Rows,
    load_query,
)
from rwml_adapters.alfworld.engine.texts import Text, TextRules


class Action(NamedTuple):
    """A kind of action: its parameters and the texts of its command and its feedback."""

    parameters: tuple[Placeholder, ...]
    command: Text
    feedback: Text
    fixed: bool
    """Whether the command of an operator never changes."""


class Effect(NamedTuple):
    """An effect of an operator.

    Attributes:
        literal: what becomes true.
        conditions: literals that must hold for it.
        signature: of the fact that texts take for true from then on; the one beside it (``^ 1``)
            is of its negation.
        row: the things of that fact.
    """

    literal: int
    conditions: tuple[int, ...]
    signature: int
    row: tuple[int, ...]


class CompiledGame:
    """A game that episodes are played from.

    Args:
        data: of `compile_game`.

    Attributes:
        entities: the things.
        signatures: predicates of the facts, by number.
        initial: value per variable at the start.
        goal: literals.
        axioms: by layer.
        derived: the derived variables with their defaults.
        derived_from: variables that they depend on.
        needed: per literal the operators that need it.
        lacking: per operator how many literals it lacks at the start.
        applicable: the operators that lack none.
        intro: the text of the start.

    Raises:
        KeyError, TypeError, ValueError, IndexError: it is something else.
    """

    def __init__(self, data: Mapping[str, Any]) -> None:
        self.entities = [Entity(*thing) for thing in data["things"]]
        self.signatures: list[str] = data["signatures"]
        self.initial: list[int] = data["initial"]
        self.goal: list[int] = data["goal"]
        axioms: list[Axiom] = [(tuple(needs), literal) for needs, literal in data["axioms"]]
        self.axioms = layered(axioms, data["layers"])
        self.derived: list[tuple[int, int]] = [
            (variable, default)
            for variable, (layer, default) in enumerate(
                zip(data["layers"], data["defaults"], strict=True)
            )
            if layer >= 0
        ]
        self.derived_from = {literal >> 1 for needs, _ in axioms for literal in needs}
        self.needed: dict[int, list[int]] = {
            int(literal): operators for literal, operators in data["needed"].items()
        }
        self.lacking: list[int] = data["lacking"]
        self.applicable = {number for number, lacks in enumerate(self.lacking) if not lacks}
        self.rules = TextRules(
            rules=data["rules"],
            queries={text: load_query(parts) for text, parts in data["queries"].items()},
            entities=self.entities,
        )
        self.intro = self.rules.compile([["rule", "intro"]])
        self._start = _rows(data["start"], len(self.signatures))
        self._start_index: Index = {}
        self._operators: list[str] = data["operators"]
        self._effect_texts: list[str] = data["effects"]
        self._fluents: list[str] = data["fluents"]
        self._action_data: list[Any] = data["actions"]
        self._actions: dict[int, Action] = {}
        self._effects: dict[int, tuple[Effect, ...]] = {}
        self._commands: dict[int, str] = {}

    def facts(self) -> Facts:
        """What is true at the start."""
        return Facts(self._start, self._start_index)

    @cached_property
    def preconditions(self) -> list[list[int]]:
        """The literals that each operator needs."""
        found: list[list[int]] = [[] for _ in self._operators]
        for literal, operators in self.needed.items():
            for operator in operators:
                found[operator].append(literal)
        return found

    def effects(self, operator: int) -> tuple[Effect, ...]:
        """The effects of an operator, in the planner's order."""
        made = self._effects.get(operator)
        if made is None:
            texts = self._effect_texts[operator].split()
            made = self._effects[operator] = tuple(self._effect(text) for text in texts)
        return made

    def action(self, operator: int) -> Action:
        """The kind of action of an operator."""
        kind = int(self._operators[operator].partition(" ")[0])
        made = self._actions.get(kind)
        if made is None:
            _, parameters, template, feedback, fixed = self._action_data[kind]
            made = self._actions[kind] = Action(
                parameters=tuple((name, of) for name, of in parameters),
                command=self.rules.compile(template),
                feedback=self.rules.compile(feedback),
                fixed=fixed,
            )
        return made

    def mapped(self, operator: int) -> Mapped:
        """What the parameters of an operator's action stand for."""
        things = map(int, self._operators[operator].split()[1:])
        return dict(zip(self.action(operator).parameters, things, strict=False))

    def command(self, operator: int, facts: Facts) -> str:
        """The command that stands for an operator now."""
        known = self._commands.get(operator)
        if known is not None:
            return known
        action = self.action(operator)
        text = action.command(self.rules.scene(facts, self.mapped(operator)))
        if action.fixed:
            self._commands[operator] = text
        return text

    def _effect(self, text: str) -> Effect:
        literal, *conditions = map(int, text.split(":"))
        signature, *row = map(int, self._fluents[literal >> 1].split())
        return Effect(literal, tuple(conditions), signature ^ (literal & 1), tuple(row))


def _rows(facts: list[list[int]], signatures: int) -> list[Rows]:
    rows: list[Rows] = [[] for _ in range(signatures)]
    for signature, *row in facts:  # sorted already
        rows[signature].append(tuple(row))
    return rows
