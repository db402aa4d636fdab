"""The expressions of a text grammar, such as ``o.indefinite + ' ' + o.name``, without `eval`.

TextWorld evaluates them as Python, so a game file could run anything. Here an expression is
attributes of entities, texts, ``+``, ``or`` and ``and``; anything else is refused, before either
engine sees the grammar.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

from rwml.errors import AdapterError, UsageError


@dataclass(frozen=True, slots=True)
class Entity:
    """A thing of the game, with the attributes that TextWorld's ``EntityInfo`` has there."""

    id: str
    type: str
    name: str
    definite: str = "the"
    indefinite: str = "a"
    noun: None = None
    adj: None = None
    desc: None = None
    room_type: None = None
    synonyms: None = None

    def __str__(self) -> str:
        return self.name


Value: TypeAlias = "Entity | str | None"
Expression: TypeAlias = Callable[[Mapping[str, Entity]], Value]

_ATTRIBUTES = frozenset(Entity.__slots__)


@lru_cache(maxsize=256)  # the same few in every game
def compile_expression(text: str) -> Expression:
    """Turns an expression into a function of the entities by their names in it.

    Raises:
        UsageError: it is more than the grammar of a game needs.
    """
    try:
        return _compile(ast.parse(text.lstrip(" \t"), mode="eval").body)
    except (SyntaxError, _RefusedError) as error:
        raise UsageError(
            f"the game's grammar holds an expression that is not played: {text!r}"
        ) from error


class _RefusedError(Exception):
    pass


def _compile(node: ast.expr) -> Expression:
    match node:
        case ast.Name(id=name):
            return lambda entities: _entity(entities, name)
        case ast.Attribute(value=ast.Name(id=name), attr=attribute) if attribute in _ATTRIBUTES:
            return lambda entities: getattr(_entity(entities, name), attribute)
        case ast.Constant(value=str(text)):
            return lambda _: text
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return _added(_compile(left), _compile(right))
        case ast.BoolOp(op=operator, values=values):
            return _first(
                [_compile(value) for value in values], wanted=isinstance(operator, ast.Or)
            )
        case _:
            raise _RefusedError


def _entity(entities: Mapping[str, Entity], name: str) -> Entity:
    try:
        return entities[name]
    except KeyError:
        raise AdapterError(f"the game's grammar names {name!r}, which is not bound there") from None


def _added(left: Expression, right: Expression) -> Expression:
    def add(entities: Mapping[str, Entity]) -> Value:
        one, other = left(entities), right(entities)
        if isinstance(one, str) and isinstance(other, str):
            return one + other
        raise AdapterError("the game's grammar adds what is no text")

    return add


def _first(values: list[Expression], *, wanted: bool) -> Expression:
    def first(entities: Mapping[str, Entity]) -> Value:
        found: Value = None
        for value in values:
            found = value(entities)
            if bool(found) is wanted:
                break
        return found

    return first
