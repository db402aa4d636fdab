"""Our engine: a compiled game, played on sets of literals, with texts made when they are asked.

It says what TextWorld's engine says, character for character, and lists the same commands in the
same order; applicable operators are kept up to date from the few literals that an action changes.
"""

from __future__ import annotations

from rwml_adapters.alfworld.engine.axioms import derive
from rwml_adapters.alfworld.engine.cache import compiled_game
from rwml_adapters.alfworld.engine.compiled import CompiledGame
from rwml_adapters.alfworld.engine.facts import Facts
from rwml_adapters.alfworld.engine.planner import Planner
from rwml_adapters.alfworld.logic import GameText

NOT_UNDERSTOOD = "Nothing happens."


class FastEngine:
    """A game being played.

    Args:
        text: the game; it is compiled once, and kept in the user's cache folder.

    Raises:
        UsageError: the game's grammar cannot be read, or runs code.
        MissingExtraError: alfworld or textworld is not installed.
    """

    def __init__(self, text: GameText) -> None:
        self._game: CompiledGame = compiled_game(text)
        self._planner: Planner | None = None
        self.reset()

    @property
    def feedback(self) -> str:
        """What the game said last."""
        return self._feedback

    @property
    def won(self) -> bool:
        """Whether the goal holds now."""
        if self._won is None:
            self._won = all(self._holds(literal) for literal in self._game.goal)
        return self._won

    @property
    def moves(self) -> int:
        """Commands since the reset that the game understood."""
        return self._moves

    @property
    def admissible_commands(self) -> list[str]:
        """Commands that would be understood now, sorted."""
        return sorted(self._understood())

    def reset(self) -> None:
        """Starts the game from the beginning."""
        game = self._game
        self._values = game.initial.copy()
        self._lacking = game.lacking.copy()
        self._applicable = game.applicable.copy()
        self._facts: Facts = game.facts()
        self._commands: dict[str, int] | None = None
        self._won: bool | None = None
        self._plan: list[int] | None = None
        self._moves = 0
        self._feedback = game.intro(game.rules.scene(self._facts, {}))

    def step(self, command: str) -> None:
        """Runs one command."""
        operator = self._understood().get(command.strip())
        if operator is None:
            self._feedback = NOT_UNDERSTOOD
            return
        self._apply(operator)
        # Whoever follows the plan is still on it.
        self._plan = self._plan[1:] if self._plan and self._plan[0] == operator else None
        scene = self._game.rules.scene(self._facts, self._game.mapped(operator))
        self._feedback = self._game.action(operator).feedback(scene)
        self._moves += 1

    def expert_plan(self) -> list[str]:
        """Commands that win from here; empty when won or impossible."""
        if self.won:
            return []
        if self._plan is None:
            if self._planner is None:
                self._planner = Planner(self._game)
            self._plan = self._planner.plan(self._values)
        return [self._game.command(operator, self._facts) for operator in self._plan]

    def facts(self) -> list[str]:
        """What is true now, sorted."""
        names = [entity.name.strip() for entity in self._game.entities]
        return sorted(
            f"{predicate}({', '.join(names[thing] for thing in row)})"
            for signature, predicate in enumerate(self._game.signatures)
            for row in self._facts.rows(signature)
        )

    def close(self) -> None:
        """Does nothing: the engine holds no resources."""

    def _holds(self, literal: int) -> bool:
        return self._values[literal >> 1] == literal & 1

    def _understood(self) -> dict[str, int]:
        """The commands of now, each with the first operator in the planner's order."""
        if self._commands is None:
            commands: dict[str, int] = {}
            for operator in sorted(self._applicable):
                commands.setdefault(self._game.command(operator, self._facts), operator)
            self._commands = commands
        return self._commands

    def _apply(self, operator: int) -> None:
        """Changes the state; all conditions are about the state before."""
        game, facts = self._game, self._facts
        effects = game.effects(operator)
        fired = [
            effect.literal
            for effect in effects
            if all(self._holds(condition) for condition in effect.conditions)
        ]
        for _, _, signature, row in effects:
            facts.remove(signature ^ 1, row)
            facts.add(signature, row)
        for literal in fired:
            self._make(literal)
        if not game.derived_from.isdisjoint(literal >> 1 for literal in fired):
            self._derive()
        self._commands = self._won = None

    def _derive(self) -> None:
        """Works out the derived variables from their defaults."""
        values = self._values.copy()
        for variable, default in self._game.derived:
            values[variable] = default
        derive(values, self._game.axioms)
        for variable, _ in self._game.derived:
            self._make(2 * variable + values[variable])

    def _make(self, literal: int) -> None:
        """Makes a literal true, and keeps count of what each operator lacks."""
        variable, value = literal >> 1, literal & 1
        before = self._values[variable]
        if before == value:
            return
        self._values[variable] = value
        lacking, applicable, needed = self._lacking, self._applicable, self._game.needed
        for operator in needed.get(2 * variable + before, ()):
            if not lacking[operator]:
                applicable.discard(operator)
            lacking[operator] += 1
        for operator in needed.get(literal, ()):
            lacking[operator] -= 1
            if not lacking[operator]:
                applicable.add(operator)
