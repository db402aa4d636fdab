"""Turns a game into plain data, once: grounded actions, facts at the start, text rules.

This is what the cache keeps as JSON and what `CompiledGame` plays from. Nothing is simplified
that TextWorld shows: operators stand in the order in which its planner lists them, and effects in
the order in which it reports them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeAlias

from pydantic import JsonValue

from rwml.errors import AdapterError
from rwml_adapters.alfworld.engine.axioms import derive, layered
from rwml_adapters.alfworld.engine.exclusive import exclusive, pddl_to_sas
from rwml_adapters.alfworld.engine.facts import load_query
from rwml_adapters.alfworld.engine.grammar import (
    Grammar,
    Symbol,
    queries_of,
    read_grammar,
    read_query,
)
from rwml_adapters.alfworld.engine.names import display_names
from rwml_adapters.alfworld.engine.sas import SasOperator, SasTask, read_sas
from rwml_adapters.alfworld.engine.texts import TextRules
from rwml_adapters.alfworld.logic import GameText

Fact: TypeAlias = tuple[str, tuple[str, ...]]
"""Predicate and ids of its arguments."""

_NEGATION = "not_"


def compile_game(text: GameText) -> dict[str, JsonValue]:
    """Translates and parses a game; takes half a second or so.

    Raises:
        AdapterError: the translation is of a kind that TextWorld does not make.
        UsageError: its grammar cannot be read, or runs code.
        MissingExtraError: alfworld or textworld is not installed.
    """
    with exclusive():
        grammar = read_grammar(text.grammar)
        task, sas = pddl_to_sas(text.domain, text.problem)
        return _Compiler(task, read_sas(sas), grammar).data()


class _Compiler:
    """Numbers what one game is made of."""

    def __init__(self, task: Any, sas: SasTask, grammar: Grammar) -> None:
        self._sas = sas
        self._grammar = grammar
        self._types: dict[str, str] = {thing.name: thing.type_name for thing in task.objects}
        self._parameters: dict[str, list[tuple[str, str]]] = {
            action.name: [(part.name.strip("?"), part.type_name) for part in action.parameters]
            for action in task.actions
        }
        self._actions = sorted({operator.name.split()[0] for operator in sas.operators})
        missing = [name for name in self._actions if name not in grammar.actions]
        if missing:
            raise AdapterError(f"the game's grammar has no action {missing[0]!r} of its domain")
        self._hierarchy = _hierarchy(task.types)
        self._fluents = [_fact_of(atom) for atom in sas.facts]
        self._initial = list(sas.initial)
        derive(self._initial, layered(sas.axioms, sas.layers))
        self._start = _facts_at_start(task, self._fluents, self._initial)
        self._things = self._all_things()
        self._signatures: dict[tuple[str, tuple[str, ...]], int] = {}
        for predicate, arguments in (*self._start, *self._fluents):
            if predicate.startswith(_NEGATION):
                raise AdapterError(f"the game's predicate {predicate!r} looks like a negation")
            for name in (predicate, _NEGATION + predicate):  # neighbours: 2n and 2n + 1
                key = (name, tuple(self._types[argument] for argument in arguments))
                self._signatures.setdefault(key, len(self._signatures))

    def data(self) -> dict[str, JsonValue]:
        names = display_names(argument for _, arguments in self._start for argument in arguments)
        operators = _listed(self._sas.operators)
        needed: dict[int, list[int]] = {}
        for number, operator in enumerate(operators):
            for literal in operator.preconditions:
                needed.setdefault(literal, []).append(number)
        queries = {text: self._query(text) for text in sorted(self._texts())}
        rules = TextRules(
            rules=self._grammar.rules,
            queries={text: load_query(parts) for text, parts in queries.items()},
            entities=(),
        )
        changing = {name for fact, _ in self._fluents for name in (fact, _NEGATION + fact)}
        data: dict[str, Any] = {
            "things": [[*thing, names.get(thing[0], "")] for thing in self._things],
            "signatures": [name for name, _ in self._signatures],
            "start": sorted({self._numbered(fact) for fact in self._start}),
            "fluents": [_words(self._numbered(fact)) for fact in self._fluents],
            "layers": self._sas.layers,
            "defaults": self._sas.initial,
            "initial": self._initial,
            "goal": self._sas.goal,
            "axioms": self._sas.axioms,
            "operators": [self._operator(operator) for operator in operators],
            "effects": [_effects(operator) for operator in operators],
            "needed": needed,
            "lacking": [
                sum(self._initial[literal >> 1] != literal & 1 for literal in each.preconditions)
                for each in operators
            ],
            "actions": [self._action(name, rules, changing) for name in self._actions],
            "rules": self._grammar.rules,
            "queries": queries,
        }
        return data

    def _all_things(self) -> dict[tuple[str, str], int]:
        """Every id under each type that it is spoken of with, numbered in TextWorld's order."""
        pairs = {
            (argument, self._types[argument])
            for _, arguments in (*self._start, *self._fluents)
            for argument in arguments
        }
        for operator in self._sas.operators:
            name, *arguments = operator.name.split()
            for argument, (_, kind) in zip(arguments, self._parameters[name], strict=False):
                pairs.add((argument, kind))
        return {pair: number for number, pair in enumerate(sorted(pairs))}

    def _numbered(self, fact: Fact) -> tuple[int, ...]:
        predicate, arguments = fact
        kinds = tuple(self._types[argument] for argument in arguments)
        return (
            self._signatures[predicate, kinds],
            *(self._things[pair] for pair in zip(arguments, kinds, strict=True)),
        )

    def _action(self, name: str, rules: TextRules, changing: set[str]) -> list[Any]:
        """Its texts, and whether its commands are the same in every state."""
        text = self._grammar.actions[name]
        fixed = not changing & rules.asked(text.template)
        return [name, self._parameters[name], text.template, text.feedback, fixed]

    def _operator(self, operator: SasOperator) -> str:
        """Numbers of the action and of its things."""
        name, *arguments = operator.name.split()
        kinds = (kind for _, kind in self._parameters[name])
        things = (self._things[pair] for pair in zip(arguments, kinds, strict=False))
        return _words((self._actions.index(name), *things))

    def _texts(self) -> set[str]:
        bodies: list[list[Symbol]] = []
        found: set[str] = set()
        for alternatives in self._grammar.rules.values():
            for condition, body in alternatives:
                bodies.append(body)
                if condition:
                    found.add(condition)
        for action in self._grammar.actions.values():
            bodies += [action.template, action.feedback]
        for body in bodies:
            found.update(queries_of(body))
        return found

    def _query(self, text: str) -> list[Any]:
        """Per predicate: its name, where its facts are, in order, and its placeholders."""
        parts: list[Any] = []
        for predicate, placeholders in read_query(text):
            kinds = [kind for _, kind in placeholders]
            if any(kind not in self._known_types for kind in kinds):
                parts.append([predicate, None, placeholders])  # an error when it is asked
                continue
            wanted = self._hierarchy.multi_subtypes([self._hierarchy.get(kind) for kind in kinds])
            keys = [(predicate, tuple(kind.name for kind in combination)) for combination in wanted]
            parts.append(
                [
                    predicate,
                    [self._signatures[key] for key in keys if key in self._signatures],
                    placeholders,
                ]
            )
        return parts

    @property
    def _known_types(self) -> set[str]:
        return {kind.name for kind in self._hierarchy}


def _words(numbers: Iterable[int]) -> str:
    """Numbers as text: it is loaded faster than a list, and few are ever looked at."""
    return " ".join(map(str, numbers))


def _effects(operator: SasOperator) -> str:
    """Literals as text, each with its conditions after colons."""
    each = ((effect.literal, *effect.conditions) for effect in operator.effects)
    return " ".join(":".join(map(str, literals)) for literals in each)


def _hierarchy(types: Iterable[Any]) -> Any:
    from textworld.logic import Type, TypeHierarchy

    hierarchy = TypeHierarchy()
    known: set[str] = set()
    for kind in types:
        if kind.name not in known:  # the first one counts, as in TextWorld
            known.add(kind.name)
            hierarchy.add(Type(kind.name, kind.supertype_names))
    return hierarchy


def _fact_of(atom: str) -> Fact:
    """``Atom opened(fridge)`` as a fact."""
    predicate, _, arguments = atom.removeprefix("Atom ").partition("(")
    return predicate, tuple(part for part in arguments[:-1].split(", ") if part)


def _facts_at_start(task: Any, fluents: list[Fact], initial: list[int]) -> list[Fact]:
    """What TextWorld knows at the start: the problem's facts and the true variables."""
    facts: list[Fact] = []
    for given in task.init:
        if hasattr(given, "predicate"):
            if given.predicate != "=":
                facts.append((given.predicate, tuple(given.args)))
        elif given.fluent.symbol != "total-cost" and not str(given.expression.value).isdigit():
            facts.append((str(given.expression.value), tuple(given.fluent.args)))
    facts += [fact for fact, value in zip(fluents, initial, strict=True) if value == 0]
    return facts


def _listed(operators: tuple[SasOperator, ...]) -> list[SasOperator]:
    """Operators in the order in which the planner lists the applicable ones.

    Its successor generator goes down a tree of the sorted preconditions, variable by variable,
    and a node's own operators come first: by preconditions, then by number.
    """
    return sorted(operators, key=lambda operator: operator.preconditions)  # stable
