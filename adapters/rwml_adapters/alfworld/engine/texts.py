"""Makes the texts of a game from its rules: compiled to closures, when first used.

The same derivation as TextWorld's context-sensitive grammar, without parsing or copying anything
while a game is played: the first alternative whose condition holds, queries in the order of their
facts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, TypeAlias

from rwml.errors import AdapterError
from rwml_adapters.alfworld.engine.expressions import Entity, compile_expression
from rwml_adapters.alfworld.engine.facts import Facts, Mapped, Query
from rwml_adapters.alfworld.engine.grammar import Symbol


class Scene(NamedTuple):
    """What a text is about: the state, and the things that its names stand for."""

    facts: Facts
    entities: Mapping[str, Entity]
    mapped: Mapped


Text: TypeAlias = Callable[[Scene], str]
Alternative: TypeAlias = tuple[str | None, list[Symbol]]


class TextRules:
    """The text rules of a game.

    Args:
        rules: per name the alternatives: a condition or None, and symbols.
        queries: the queries by their text.
        entities: by number of thing.
    """

    def __init__(
        self,
        *,
        rules: Mapping[str, Sequence[Alternative]],
        queries: Mapping[str, Query],
        entities: Sequence[Entity],
    ) -> None:
        self._rules = rules
        self._queries = queries
        self._entities = entities
        self._made: dict[str, list[tuple[Query | None, Text]]] = {}

    def scene(self, facts: Facts, mapped: Mapped) -> Scene:
        """A scene in which placeholders stand for things."""
        entities = {name: self._entities[thing] for (name, _), thing in mapped.items()}
        return Scene(facts, entities, mapped)

    def compile(self, symbols: Sequence[Symbol]) -> Text:
        """Turns symbols into a function that makes their text.

        Raises:
            UsageError: an expression in them is more than a game needs.
        """
        parts = [self._part(symbol) for symbol in symbols]
        if len(parts) == 1:
            return parts[0]
        return lambda scene: "".join([part(scene) for part in parts])

    def asked(self, symbols: Sequence[Symbol]) -> set[str]:
        """Predicates that the text of these symbols depends on, with the rules that they name."""
        names: set[str] = set()
        seen: set[str] = set()
        waiting = list(symbols)
        while waiting:
            kind, *rest = waiting.pop()
            if kind == "list":
                waiting += [rest[0], *(["rule", name] for name in _LIST_RULES)]
            elif kind == "each":
                waiting.append(rest[0])
                names.update(part.name for part in self._queries.get(rest[1], ()))
            elif kind == "rule" and rest[0] not in seen:
                seen.add(rest[0])
                for condition, body in self._rules.get(rest[0], ()):
                    names.update(part.name for part in self._queries.get(condition or "", ()))
                    waiting += body
        return names

    def _part(self, symbol: Symbol) -> Text:
        kind, *rest = symbol
        if kind == "text":
            return lambda _: rest[0]
        if kind == "rule":
            return lambda scene: self._rule(rest[0], scene)
        if kind == "value":
            value = compile_expression(rest[0])
            return lambda scene: str(value(scene.entities))
        if kind == "each":
            each = self._each(symbol)
            return lambda scene: "".join(each(scene))
        return self._list(rest[0])

    def _each(self, symbol: Symbol) -> Callable[[Scene], list[str]]:
        """The texts of what a query finds; of the scene itself when there is no query."""
        _, inner, asked = symbol
        text = self._part(inner)
        if asked is None:
            return lambda scene: [text(scene)]
        query = self._queries[asked]

        def each(scene: Scene) -> list[str]:
            facts, entities, mapped = scene
            found: list[str] = []
            for match in facts.matches(query, mapped):
                bound = {name: self._entities[thing] for (name, _), thing in match.items()}
                found.append(text(Scene(facts, {**entities, **bound}, match)))
            return found

        return each

    def _list(self, symbol: Symbol) -> Text:
        each = self._each(symbol)

        def text(scene: Scene) -> str:
            items = each(scene)
            if not items:
                return self._rule("list_empty", scene)
            if len(items) == 1:
                return items[0]
            between = self._rule("list_separator", scene) if len(items) > 2 else ""
            return between.join(items[:-1]) + self._rule("list_last_separator", scene) + items[-1]

        return text

    def _rule(self, name: str, scene: Scene) -> str:
        made = self._made.get(name)
        if made is None:
            made = self._made[name] = [
                (self._queries[condition] if condition else None, self.compile(body))
                for condition, body in self._rules.get(name, ())
            ]
        for query, text in made:
            if query is None or any(True for _ in scene.facts.matches(query, scene.mapped)):
                return text(scene)
        raise AdapterError(f"the game's grammar has no rule {name!r} that applies here")


_LIST_RULES = ("list_empty", "list_separator", "list_last_separator")
