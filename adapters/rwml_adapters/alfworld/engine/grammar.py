"""Reads a game's text grammar (twl2) into plain data, with TextWorld's own parsers, once.

What TextWorld parses again for every command is parsed here once per text and kept by the
caller's cache as JSON. Its parsers are used, because their treatment of white space and of stray
brackets shows in what an agent reads.
"""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any, NamedTuple, TypeAlias

from rwml.errors import UsageError
from rwml.extras import require
from rwml_adapters.alfworld.engine.expressions import compile_expression

Symbol: TypeAlias = list[Any]
"""``["text", t]``, ``["rule", name]``, ``["value", expression]``, ``["each", symbol, query or
None]`` or ``["list", symbol]``."""

Predicates: TypeAlias = list[tuple[str, list[tuple[str, str]]]]
"""A conjunctive query: predicates with their placeholders, ``(name, type)``."""


class ActionText(NamedTuple):
    """Symbols of an action: of its command, and of what the game says after it."""

    template: list[Symbol]
    feedback: list[Symbol]


class Grammar(NamedTuple):
    """A grammar.

    Attributes:
        actions: by name, in lower case.
        rules: per name the alternatives: a query that must match (or None), and the symbols.
    """

    actions: dict[str, ActionText]
    rules: dict[str, list[tuple[str | None, list[Symbol]]]]


def read_grammar(text: str) -> Grammar:
    """Reads a grammar; inside `exclusive`, for TextWorld's parsers have one state.

    Raises:
        UsageError: it is no grammar, or holds expressions beyond what a game needs.
        MissingExtraError: textworld is not installed.
    """
    require("alfworld", "textworld", "tatsu")
    from tatsu.exceptions import ParseException

    try:
        actions, rules = _document(text)
        return Grammar(
            actions={
                name: ActionText(read_symbols(template), read_symbols(feedback))
                for name, (template, feedback) in actions.items()
            },
            rules={
                name: [
                    (rule.get("condition") or None, read_symbols(rule["rhs"]))
                    for rule in alternatives
                ]
                for name, alternatives in rules.items()
            },
        )
    except (ParseException, ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, UsageError):
            raise
        raise UsageError(f"the game's grammar cannot be read: {str(error)[:200]}") from error


@lru_cache(maxsize=512)  # games share their rules, but for the task
def read_symbols(text: str) -> list[Symbol]:
    """The symbols of one text, such as ``You open the {r.name}.``; not to be changed.

    Raises:
        UsageError: an expression in it is more than a game needs.
    """
    from textworld.envs.pddl import textgen

    parse: Any = textgen._parse_and_convert
    return [_symbol(symbol) for symbol in parse(text, rule_name="symbols")]


@lru_cache(maxsize=128)
def read_query(text: str) -> Predicates:
    """The predicates of a condition, such as ``openable(r:receptacle) & opened(r:receptacle)``."""
    from textworld.logic import Rule

    rule = Rule.parse_conjunctive_query(text)
    return [
        (predicate.name, [(part.name, part.type) for part in predicate.parameters])
        for predicate in rule.preconditions
    ]


def queries_of(symbols: list[Symbol]) -> list[str]:
    """The queries in some symbols, not in the rules that they name."""
    found: list[str] = []
    for kind, *rest in symbols:
        if kind == "list":
            found += queries_of([rest[0]])
        elif kind == "each":
            found += queries_of([rest[0]])
            if rest[1]:
                found.append(rest[1])
    return found


def _document(text: str) -> tuple[dict[str, tuple[str, str]], dict[str, list[dict[str, Any]]]]:
    """Templates and feedback of the actions, and the rules, still as text."""
    from textworld.envs.pddl import logic

    actions: dict[str, tuple[str, str]] = {}
    rules: dict[str, list[dict[str, Any]]] = {}
    converter = logic._ModelConverter()
    for part in logic._PARSER.parse(text, rule_name="pddlStart").parts:
        if type(part).__name__ == "ActionTypeNode":
            action = converter.walk(part)
            actions[action.name.lower()] = (action.template, action.feedback_rule)
            lines = action.grammar.split("\n")
            block = "\n".join(line for line in lines if not line.lstrip().startswith("#"))
        else:
            block = converter._unescape_block(part.code)
        rules.update(json.loads(block))
    return actions, rules


def _symbol(symbol: Any) -> Symbol:
    match type(symbol).__name__:
        case "TerminalSymbol":
            return ["text", str(symbol.symbol)]
        case "NonterminalSymbol":
            return ["rule", str(symbol.symbol)]
        case "EvalSymbol":
            compile_expression(symbol.expression)  # refused here, before anything runs
            return ["value", symbol.expression]
        case "ConditionalSymbol":
            return ["each", _symbol(symbol.expression), symbol.given or None]
        case "ListSymbol":
            return ["list", _symbol(symbol.symbol)]
        case kind:
            raise ValueError(f"unknown symbol {kind}")
