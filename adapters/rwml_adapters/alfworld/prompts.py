"""What an LLM is told to play ALFWorld, and how its reply is read.

In the manner of the paper's agent (RWML app. B: ReAct, thinking and action in one reply), in our
own words: instruction, task, history, current observation, possible actions. A reply in another
form is a format error; the environment never sees it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from rwml.prompts.parsing import THINK_END, THINK_START

ACTION_START = "<action>"
ACTION_END = "</action>"
NOTHING_HAPPENS = "Nothing happens."
"""What ALFWorld says to a command that it does not take, and what we say to a format error."""
MAX_ACTION_CHARS = 200
"""Longer than any command of the game by far; beyond it a reply is a format error (ours)."""

SYSTEM_PROMPT = (
    "You act in a household that you know through text alone. Reach the goal of your task in as "
    "few actions as you can. Each turn you are told what you observe and which actions are "
    "possible. You see what lies on or in a place only when you are there, and in a closed one "
    "only when it is open; you carry one object at a time.\n"
    "First think, briefly, inside <think> and </think>: what you have learned, and what is left to "
    "do. Then give one action, worded as it stands among the possible ones, inside <action> and "
    "</action>. Write nothing else."
)


@dataclass(frozen=True)
class Turn:
    """One action and what came back, as the agent remembers it."""

    action: str
    observation: str


@dataclass(frozen=True)
class Reply:
    """What a model's reply says.

    Attributes:
        command: None for a format error.
        reasoning: what it thought; empty when nothing.
    """

    command: str | None
    reasoning: str = ""


def render_turn(
    *,
    first: str,
    history: Sequence[Turn],
    commands: Sequence[str],
    turns: int | None = None,
) -> str:
    """The user's message of one turn.

    Args:
        first: the first observation, which holds the task.
        history: all turns so far.
        commands: what is possible now.
        turns: how many of the last turns to tell; None for all of them.
    """
    told = history if turns is None else history[max(0, len(history) - turns) :]
    parts = [f"# Start\n{first.strip()}"]
    if told:
        missing = len(history) - len(told)
        lines = [f"({missing} earlier turns are left out)"] if missing else []
        for turn in told:
            lines += [f"Action: {turn.action}", f"Observation: {turn.observation.strip()}"]
        parts.append("# So far\n" + "\n".join(lines))
    parts.append("# Possible actions\n" + "\n".join(commands))
    parts.append(
        "What do you do next? Think inside <think> and </think>, then give one action inside "
        "<action> and </action>."
    )
    return "\n\n".join(parts)


def parse_reply(text: str) -> Reply:
    """Reads a reply; thinking may be missing, the action must be there exactly once.

    Tags inside the thinking do not count. Some chat templates open the thinking in the prompt, so
    that the reply holds its end alone.
    """
    thought, closed, answer = text.rpartition(THINK_END)
    reasoning = thought.replace(THINK_START, "", 1).strip() if closed else ""
    if answer.count(ACTION_START) != 1 or answer.count(ACTION_END) != 1:
        return Reply(None, reasoning)
    before, _, rest = answer.partition(ACTION_START)
    inside, closed, _ = rest.partition(ACTION_END)
    command = " ".join(inside.split())
    if not closed or not command or len(command) > MAX_ACTION_CHARS or THINK_START in before:
        return Reply(None, reasoning)
    return Reply(command, reasoning)


def format_reply(command: str, reasoning: str) -> str:
    """The reply that `parse_reply` reads this way."""
    return f"{THINK_START}{reasoning}{THINK_END}\n{ACTION_START}{command}{ACTION_END}"


def names_in(texts: Sequence[str]) -> list[str]:
    """Objects and places that texts name (``desk 1``), in the order they come, each once."""
    found = re.findall(r"\b([a-z]+ [0-9]+)\b", "\n".join(texts))
    return list(dict.fromkeys(found))
