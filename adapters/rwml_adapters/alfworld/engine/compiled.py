"""A compiled game, ready to be played many times: shared by its episodes, never changed by them.

It holds everything that is the same in each episode: which operators need which literals, how
many literals each lacks at the start, and the texts of commands that cannot change.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from rwml_adapters.alfworld.engine.compiling import derived_values
from rwml_adapters.alfworld.engine.expressions import Entity
from rwml_adapters.alfworld.engine.facts import Facts, Mapped, Placeholder, Rows, load_query
from rwml_adapters.alfworld.engine.texts import Text, TextRules


class Action(NamedTuple):
    """A kind of action: its parameters and the texts of its command and its feedback."""

    parameters: tuple[Placeholder, ...]
    command: Text
    feedback: Text
    fixed: bool
    """Whether the command of an operator never changes."""


class Effect(NamedTuple):
    """An effect: the literal it makes true, and the literals that must hold for it."""

    literal: int
    conditions: tuple[int, ...]


class TextEffect(NamedTuple):
    """The same effect on what the texts know.

    Attributes:
        signature: of the fact that becomes true; the one beside it (``^ 1``) is of its negation.
        row: its things.
    """

    signature: int
    row: tuple[int, ...]


class CompiledGame:
    """A game that episodes are played from.

    Args:
        data: of `compile_game`.

    Raises:
        KeyError, TypeError, ValueError, IndexError: it is something else.
    """

    def __init__(self, data: Mapping[str, Any]) -> None:
        entities = [Entity(*thing) for thing in data["things"]]
        self.entities = entities
        self.signatures: list[str] = data["signatures"]
        self.start = _rows(data["start"], len(self.signatures))
        self.layers: list[int] = data["layers"]
        self.axioms = [(tuple(conditions), literal) for conditions, literal in data["axioms"]]
        self.goal: list[int] = data["goal"]
        self.defaults: list[int] = data["initial"]
        self.initial = derived_values(self.defaults, self.layers, self.axioms)
        self.derived_from = {
            literal >> 1 for conditions, _ in self.axioms for literal in conditions
        }
        self.rules = TextRules(
            rules=data["rules"],
            queries={text: load_query(parts) for text, parts in data["queries"].items()},
            entities=entities,
        )
        self.text_effects = [
            TextEffect(signature ^ negative, tuple(row))
            for signature, *row in data["fluents"]
            for negative in (0, 1)
        ]
        self.actions = self._actions(data)
        self._operators: list[Any] = data["operators"]
        self.preconditions: list[list[int]] = [needs for _, _, needs, _ in self._operators]
        self._effects: dict[int, tuple[Effect, ...]] = {}
        self._commands: dict[int, str] = {}
        self._index()
        self.intro = self.rules.compile([["rule", "intro"]])

    def facts(self) -> Facts:
        """What is true at the start."""
        return Facts(self.start)

    def effects(self, operator: int) -> tuple[Effect, ...]:
        """The effects of an operator, in the planner's order."""
        made = self._effects.get(operator)
        if made is None:
            made = self._effects[operator] = tuple(
                Effect(effect, ())
                if isinstance(effect, int)
                else Effect(effect[0], tuple(effect[1:]))
                for effect in self._operators[operator][3]
            )
        return made

    def action(self, operator: int) -> Action:
        """The kind of action of an operator."""
        return self.actions[self._operators[operator][0]]

    def mapped(self, operator: int) -> Mapped:
        """What the parameters of an operator's action stand for."""
        kind, things, *_ = self._operators[operator]
        return dict(zip(self.actions[kind].parameters, things, strict=False))

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

    def _actions(self, data: Mapping[str, Any]) -> list[Action]:
        changing = {self.signatures[effect.signature] for effect in self.text_effects}
        return [
            Action(
                parameters=tuple((name, kind) for name, kind in parameters),
                command=self.rules.compile(template),
                feedback=self.rules.compile(feedback),
                fixed=not changing & self.rules.asked(template),
            )
            for _, parameters, template, feedback in data["actions"]
        ]

    def _index(self) -> None:
        """Which operators need a literal, and what each lacks at the start."""
        self.needed: list[list[int]] = [[] for _ in range(2 * len(self.initial))]
        self.lacking: list[int] = []
        for number, needs in enumerate(self.preconditions):
            lacking = 0
            for literal in needs:
                self.needed[literal].append(number)
                lacking += self.initial[literal >> 1] != literal & 1
            self.lacking.append(lacking)
        self.applicable = {number for number, lacks in enumerate(self.lacking) if not lacks}


def _rows(facts: list[list[int]], signatures: int) -> list[Rows]:
    rows: list[Rows] = [[] for _ in range(signatures)]
    for signature, *row in facts:
        rows[signature].append(tuple(row))
    for each in rows:
        each.sort()
    return rows
