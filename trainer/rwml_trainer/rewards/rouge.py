"""The rounded ROUGE reward of tool results (RWML app. C.1), and the paper's rounding."""

from __future__ import annotations

import re
from collections.abc import Sequence
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

from rwml.errors import RewardError
from rwml.extras import require
from rwml_trainer.rewards.scoring import NextStateScore, Pair


class RougeReward(NextStateScore):
    """rougeL F1 rounded to the nearest multiple of ``round_to`` (RWML app. C.1).

    The paper does not say which ROUGE; rougeL F1 of the rouge-score package without stemming is
    ours. Words are runs of letters and digits of any script; on ASCII text that is exactly the
    package's own tokenizer, which knows no other script. Rounding is decimal with ties up:
    0.7 -> 0.8 at 0.2, whatever binary fractions say.

    Args:
        round_to: step of the rounding; it must divide 1, so that a perfect answer gives 1.

    Raises:
        RewardError: ``round_to`` is out of range.
    """

    __name__ = "rouge_reward"

    def __init__(self, *, round_to: float = 0.2) -> None:
        if not 0 < round_to <= 1 or Decimal(1) % Decimal(str(round_to)):
            raise RewardError(f"round_to must divide 1 (0.1, 0.2, 0.25, 0.5, 1), not {round_to}")
        self.round_to = round_to
        self._scorer: Any = None

    def score(self, pairs: Sequence[Pair]) -> Sequence[float | None]:
        """One rounded rougeL F1 per pair."""
        if self._scorer is None:
            require("train", "rouge_score")
            from rouge_score.rouge_scorer import RougeScorer

            self._scorer = RougeScorer(["rougeL"], tokenizer=_Words())
        return [
            round_ties_up(self._rouge(pair.prediction, pair.target), self.round_to)
            for pair in pairs
        ]

    def _rouge(self, prediction: str, target: str) -> float:
        if prediction == target:  # also where there are no words, only signs
            return 1.0
        return float(self._scorer.score(target, prediction)["rougeL"].fmeasure)


class _Words:
    """Tokenizer of rouge-score: lower-case runs of letters and digits."""

    def tokenize(self, text: str) -> list[str]:
        return re.findall(r"[^\W_]+", text.lower())


def round_ties_up(value: float, step: float) -> float:
    """Rounds to the nearest multiple of `step`, ties up, in decimal arithmetic.

    The value is first cut to 9 decimals, so that 0.7 computed as 0.69999999999 is still a tie.
    """
    unit = Decimal(str(step))
    exact = Decimal(str(round(value, 9)))
    return float((exact / unit).quantize(Decimal(1), rounding=ROUND_HALF_UP) * unit)
