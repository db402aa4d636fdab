"""Realistic mistakes of a tool-calling agent, made so that they do not change the database.

A world model must also learn what a wrong call brings back. Each mistake is one that the tool
refuses before it writes: an unknown name, a missing or unknown argument, or (for tools that write)
a wrong value of the id that is looked up first.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from dataclasses import dataclass

from pydantic import JsonValue

Arguments = dict[str, JsonValue]

LOOKED_UP_FIRST = frozenset({"order_id", "user_id", "reservation_id", "customer_id", "task_id"})
"""Arguments that every writing tool of the four domains looks up before it writes."""
_VERBS = {
    "get": ("fetch", "lookup", "read"),
    "find": ("search", "lookup"),
    "modify": ("update", "change"),
    "update": ("set", "change"),
    "cancel": ("delete", "void"),
    "return": ("refund", "send_back"),
    "exchange": ("swap", "replace"),
    "list": ("get", "show"),
    "book": ("create", "make"),
    "search": ("find", "query"),
    "create": ("add", "new"),
}


@dataclass(frozen=True)
class Call:
    """A tool call about to be made.

    Attributes:
        name: the tool.
        arguments: its arguments.
        required: names of the arguments the tool needs.
        known: every argument the tool takes.
        writes: the tool changes the database.
    """

    name: str
    arguments: Arguments
    required: frozenset[str] = frozenset()
    known: frozenset[str] = frozenset()
    writes: bool = False


Mistake = Callable[[Call, random.Random], tuple[str, Arguments] | None]


def make_mistake(
    call: Call, *, tools: frozenset[str], rng: random.Random
) -> tuple[str, Arguments] | None:
    """A wrong version of `call`, as a name and arguments; None when nothing fits.

    Args:
        call: the right call.
        tools: names of all tools, none of which an unknown name may be.
        rng: decides which mistake.
    """
    mistakes: list[Mistake] = [unknown_tool, missing_argument, wrong_name, wrong_type, wrong_id]
    rng.shuffle(mistakes)
    for mistake in mistakes:
        made = mistake(call, rng)
        if made is not None and made != (call.name, call.arguments):
            if mistake is unknown_tool and made[0] in tools:
                continue
            return made
    return None


def unknown_tool(call: Call, rng: random.Random) -> tuple[str, Arguments] | None:
    """The call with a plausible name that no tool has."""
    verb, _, rest = call.name.partition("_")
    other = rng.choice(_VERBS.get(verb, (f"do_{verb}",)))
    return (f"{other}_{rest}" if rest else f"{other}_it"), dict(call.arguments)


def missing_argument(call: Call, rng: random.Random) -> tuple[str, Arguments] | None:
    """The call without one required argument."""
    present = sorted(call.required & call.arguments.keys())
    if not present:
        return None
    dropped = rng.choice(present)
    return call.name, {key: value for key, value in call.arguments.items() if key != dropped}


def wrong_name(call: Call, rng: random.Random) -> tuple[str, Arguments] | None:
    """The call with one argument under a name the tool does not take."""
    if not call.arguments:
        return None
    old = rng.choice(sorted(call.arguments))
    tail = old.rpartition("_")[2]
    new = tail if tail != old else f"{old}_value"
    if new in call.known or new in call.arguments:
        new = f"{old}_value"
    return call.name, {(new if key == old else key): v for key, v in call.arguments.items()}


def wrong_type(call: Call, rng: random.Random) -> tuple[str, Arguments] | None:
    """The call with a text as a number or wrapped in a list."""
    key = _text_argument(call, rng)
    if key is None:
        return None
    value = str(call.arguments[key])
    wrong: JsonValue = int(value) if value.isdecimal() else [value]
    return call.name, {**call.arguments, key: wrong}


def wrong_id(call: Call, rng: random.Random) -> tuple[str, Arguments] | None:
    """The call with an id that was misread: a digit changed, or its ``#`` lost."""
    key = _text_argument(call, rng)
    if key is None or not re.search(r"_id$|^zip$|^email$|^phone_number$", key):
        return None
    value = str(call.arguments[key])
    if value.startswith("#") and rng.random() < 0.5:
        return call.name, {**call.arguments, key: value[1:]}
    digits = [place for place, letter in enumerate(value) if letter.isdecimal()]
    if not digits:
        return call.name, {**call.arguments, key: f"{value}_1"}
    changed = list(value)
    for place in digits[-3:]:  # three digits: the chance to hit another real id is negligible
        changed[place] = str((int(value[place]) + rng.randint(1, 9)) % 10)
    return call.name, {**call.arguments, key: "".join(changed)}


def _text_argument(call: Call, rng: random.Random) -> str | None:
    texts = sorted(
        key
        for key, value in call.arguments.items()
        if isinstance(value, str) and value and (not call.writes or key in LOOKED_UP_FIRST)
    )
    return rng.choice(texts) if texts else None
