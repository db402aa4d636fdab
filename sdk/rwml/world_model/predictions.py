"""What a world model answers, and how surprising it makes what really happened."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rwml.prompts import parse_prediction

Problem = Literal["format", "cut", "too_long", "refused"]
"""Why there is no prediction: no ``<next_state>`` in the answer; the same, and the answer was cut
off at its longest; no prompt that is short enough; the endpoint did not take this prompt."""


@dataclass(frozen=True)
class Prediction:
    """What a world model says will come back of an action.

    Attributes:
        text: the predicted next state; None where there is none, and `problem` says why.
        reasoning: what the model thought before.
        completion: its answer as it came.
        problem: None where there is a prediction.
        detail: what the endpoint said to a prompt that it refused; it may quote the prompt.
        status: of HTTP, with which it refused the prompt; None where it did not.
    """

    text: str | None
    reasoning: str = ""
    completion: str = ""
    problem: Problem | None = None
    detail: str = ""
    status: int | None = None


@dataclass(frozen=True)
class Scored:
    """A transition that was predicted, beside what really happened.

    Attributes:
        prediction: made from context and action alone.
        next_state: what came back, in the form that the model was trained on; empty where nothing
            can be compared.
        surprise: the sim-to-real gap of the two (RWML sec. 2.2), from 0; None where there is none,
            which is never a 0.
    """

    prediction: Prediction
    next_state: str
    surprise: float | None

    @property
    def missing(self) -> Problem | Literal["empty"] | None:
        """Why there is no surprise: the prediction's problem, or an empty next state."""
        if self.surprise is not None:
            return None
        return self.prediction.problem or "empty"


def read_answer(answer: str, *, reasoning: str = "", is_cut: bool = False) -> Prediction:
    """The prediction in a model's answer.

    Args:
        answer: with the tags (RWML sec. 2.1).
        reasoning: that an engine has taken out of the answer already.
        is_cut: whether the answer ended at its longest.
    """
    found = parse_prediction(answer)
    problem: Problem | None = None
    if found.next_state is None:
        problem = "cut" if is_cut else "format"
    return Prediction(found.next_state, found.reasoning or reasoning.strip(), answer, problem)
