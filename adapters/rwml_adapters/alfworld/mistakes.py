"""Realistic commands that ALFWorld does not take: what an agent says that guesses or misremembers.

A world model must also learn that nothing happens then. None of them is admissible, so that none
changes the household.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence

from rwml_adapters.alfworld.prompts import names_in

_OTHER_VERBS = {
    "go to": ("walk to", "move to", "go"),
    "take": ("pick up", "grab", "get"),
    "move": ("put", "place", "drop"),
    "put": ("move", "place", "drop"),
    "open": ("unlock", "look in"),
    "close": ("shut", "lock"),
    "use": ("turn on", "switch on"),
    "examine": ("search", "check"),
    "heat": ("warm", "cook"),
    "cool": ("chill", "freeze"),
    "clean": ("wash", "rinse"),
}
_OPENS = ("fridge", "cabinet", "drawer", "microwave", "safe")
ATTEMPTS = 20
"""Tries before the one mistake is made that always is one (ours)."""

Mistake = Callable[[Sequence[str], Sequence[str], random.Random], str | None]


def make_mistake(seen: Sequence[str], *, commands: Sequence[str], rng: random.Random) -> str:
    """A command that is not admissible.

    Args:
        seen: observations so far; names are taken from them.
        commands: what is admissible.
        rng: decides which mistake.
    """
    names = names_in(seen)
    mistakes: list[Mistake] = [wrong_number, other_verb, out_of_reach, left_short, wrong_place]
    for _ in range(ATTEMPTS):
        made = rng.choice(mistakes)(names, commands, rng)
        if made and made not in commands:
            return made
    return "think about the task"


def wrong_number(names: Sequence[str], commands: Sequence[str], rng: random.Random) -> str | None:
    """An admissible command with a number that was never seen."""
    command = rng.choice(list(commands))
    numbers = list(re.finditer(r"[0-9]+", command))
    if not numbers:
        return None
    at = rng.choice(numbers)
    return f"{command[: at.start()]}{int(at.group()) + rng.randint(1, 9)}{command[at.end() :]}"


def other_verb(names: Sequence[str], commands: Sequence[str], rng: random.Random) -> str | None:
    """An admissible command in words that the game does not know."""
    command = rng.choice(list(commands))
    for verb, others in _OTHER_VERBS.items():
        if command.startswith(f"{verb} "):
            return rng.choice(others) + command.removeprefix(verb)
    return None


def out_of_reach(names: Sequence[str], commands: Sequence[str], rng: random.Random) -> str | None:
    """Something done to a place or an object that is elsewhere."""
    if not names:
        return None
    name = rng.choice(list(names))
    verb = "open" if name.startswith(_OPENS) else rng.choice(("examine", "use"))
    return f"{verb} {name}"


def left_short(names: Sequence[str], commands: Sequence[str], rng: random.Random) -> str | None:
    """An admissible command without its last number, or without where."""
    command = rng.choice(list(commands))
    shorter = re.sub(r" (?:[0-9]+|(?:from|to|with|in/on) .*)$", "", command)
    return shorter if shorter != command else None


def wrong_place(names: Sequence[str], commands: Sequence[str], rng: random.Random) -> str | None:
    """An object taken from where it is not."""
    if len(names) < 2:
        return None
    thing, place = rng.sample(list(names), 2)
    return f"take {thing} from {place}"
