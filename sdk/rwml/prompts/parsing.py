"""Reads a prediction out of a completion, and writes the label of a supervised example.

A completion is ``<think>reasoning</think><next_state>prediction</next_state>`` (RWML sec. 2.1).
Only the text inside ``<next_state>`` counts. Completions of several predictions count as none:
otherwise a model could hedge.
"""

from __future__ import annotations

from dataclasses import dataclass

THINK_END = "</think>"
THINK_START = "<think>"
STATE_START = "<next_state>"
STATE_END = "</next_state>"


@dataclass(frozen=True)
class Prediction:
    """What a completion says.

    Attributes:
        next_state: the predicted next state; None when the format is wrong or it is empty.
        reasoning: text inside the think tags, which some chat templates open in the prompt.
    """

    next_state: str | None
    reasoning: str = ""


def parse_prediction(completion: str) -> Prediction:
    """Reads the one prediction of a completion.

    The reasoning ends at the last ``</think>``; tags inside the reasoning do not count. After it
    there must be exactly one ``<next_state>...</next_state>`` with text inside.
    """
    thought, end, answer = completion.rpartition(THINK_END)
    reasoning = thought.replace(THINK_START, "", 1).strip() if end else ""
    if answer.count(STATE_START) != 1 or answer.count(STATE_END) != 1:
        return Prediction(None, reasoning)
    inside = answer.partition(STATE_START)[2]
    state, closed, _ = inside.partition(STATE_END)
    return Prediction(state.strip() or None if closed else None, reasoning)


def format_label(next_state: str) -> str:
    """The label of a supervised example: empty think tags, then the next state (WM SFT)."""
    return f"{THINK_START}\n{THINK_END}\n{STATE_START}{next_state}{STATE_END}"
