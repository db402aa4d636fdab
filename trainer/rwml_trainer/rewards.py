"""Sim-to-real rewards as TRL reward functions (RWML sec. 2.2, app. C.1).

Each takes completions and the dataset's columns and returns one reward per completion. Only the
text inside ``<next_state>`` counts: no tags, an empty or an over-long prediction gives 0. What
cannot be scored (no target, an unknown kind) gives None, which TRL leaves out of the group's
reward; it is never turned into 0.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

from rwml.encoders import Encoder, as_encoder, gaps
from rwml.errors import RewardError
from rwml.extras import require
from rwml.prompts import parse_prediction
from rwml_trainer.recipes import RewardRecipe
from rwml_trainer.small_models import resolve_encoder

MAX_PREDICTION_CHARS = 20_000
"""Longest prediction that is scored; anything longer gives 0 (ours)."""

Completion = str | list[dict[str, Any]]
Scores = list[float | None]


class _NextStateScore:
    """Shared reading of completions and targets; subclasses score the pairs that remain."""

    __name__ = "reward"

    def __call__(
        self,
        *,
        completions: Sequence[Completion],
        next_state: Sequence[str | None],
        kind: Sequence[str | None] | None = None,
        prompts: Sequence[Any] | None = None,
        **columns: Any,
    ) -> Scores:
        """Scores completions against the real next states.

        Args:
            completions: n texts, or n lists of chat messages whose last one is the answer.
            next_state: the n real next states; None where there is none.
            kind: ``tool``, ``user`` or ``environment`` per row.
            prompts: the prompts (not used by these rewards).
            **columns: other dataset columns (not used).

        Returns:
            n rewards; None where a row cannot be scored.

        Raises:
            RewardError: the columns differ in length.
        """
        count = len(completions)
        kinds: Sequence[str | None] = [None] * count if kind is None else kind
        if not count == len(next_state) == len(kinds):
            raise RewardError(
                f"need one next_state and kind per completion: got {count} completions, "
                f"{len(next_state)} next states, {len(kinds)} kinds"
            )
        rewards: Scores = [None] * count
        pairs: list[tuple[int, str, str, str | None]] = []
        for place, (completion, target) in enumerate(zip(completions, next_state, strict=True)):
            if not target or not target.strip() or not self.scores(kinds[place]):
                continue
            prediction = parse_prediction(completion_text(completion)).next_state
            if prediction is None or len(prediction) > MAX_PREDICTION_CHARS:
                rewards[place] = 0.0
            else:
                pairs.append((place, prediction, target.strip(), kinds[place]))
        for (place, *_), reward in zip(pairs, self.score(pairs), strict=True):
            rewards[place] = reward
        return rewards

    def scores(self, kind: str | None) -> bool:
        """Whether rows of this kind can be scored."""
        return True

    def score(self, pairs: Sequence[tuple[int, str, str, str | None]]) -> Sequence[float | None]:
        """One reward per (place, prediction, target, kind)."""
        raise NotImplementedError  # reason: abstract; every public reward implements it


class EmbeddingReward(_NextStateScore):
    """1 where the sim-to-real gap is below ``tau_d``, else 0 (RWML sec. 2.2).

    Args:
        encoder: a sentence-transformers folder or name, or an `Encoder`.
        tau_d: threshold on the cosine distance, in (0, 2].

    Raises:
        RewardError: ``tau_d`` is out of range.
    """

    __name__ = "embedding_reward"

    def __init__(self, *, encoder: str | Encoder, tau_d: float) -> None:
        if not 0 < tau_d <= 2:
            raise RewardError(f"tau_d is a cosine distance above 0 and at most 2, not {tau_d}")
        self.encoder = as_encoder(encoder)
        self.tau_d = tau_d

    def score(self, pairs: Sequence[tuple[int, str, str, str | None]]) -> Sequence[float | None]:
        """One binary reward per pair."""
        distances = gaps(self.encoder, [p for _, p, _, _ in pairs], [t for _, _, t, _ in pairs])
        return [1.0 if distance < self.tau_d else 0.0 for distance in distances]


class RougeReward(_NextStateScore):
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

    def score(self, pairs: Sequence[tuple[int, str, str, str | None]]) -> Sequence[float | None]:
        """One rounded rougeL F1 per pair."""
        if self._scorer is None:
            require("train", "rouge_score")
            from rouge_score.rouge_scorer import RougeScorer

            self._scorer = RougeScorer(["rougeL"], tokenizer=_Words())
        return [
            round_ties_up(self._rouge(prediction, target), self.round_to)
            for _, prediction, target, _ in pairs
        ]

    def _rouge(self, prediction: str, target: str) -> float:
        if prediction == target:  # also where there are no words, only signs
            return 1.0
        return float(self._scorer.score(target, prediction)["rougeL"].fmeasure)


class _Words:
    """Tokenizer of rouge-score: lower-case runs of letters and digits."""

    def tokenize(self, text: str) -> list[str]:
        return re.findall(r"[^\W_]+", text.lower())


class NextStateReward(_NextStateScore):
    """The paper's composite: by who answered (RWML app. C.1).

    ``user`` and ``environment`` next states get the binary embedding reward, ``tool`` next states
    the rounded ROUGE. Other kinds cannot be scored.

    Args:
        encoder: a sentence-transformers folder or name, or an `Encoder`.
        tau_d: threshold of the embedding reward (0.4 for tau2, 0.2 for ALFWorld with the paper's
            encoder).
        round_to: step of the ROUGE rounding.
    """

    __name__ = "next_state_reward"

    def __init__(
        self, *, encoder: str | Encoder, tau_d: float = 0.4, round_to: float = 0.2
    ) -> None:
        self.embedding = EmbeddingReward(encoder=encoder, tau_d=tau_d)
        self.rouge = RougeReward(round_to=round_to)

    def scores(self, kind: str | None) -> bool:
        """Whether rows of this kind can be scored."""
        return kind in ("tool", "user", "environment")

    def score(self, pairs: Sequence[tuple[int, str, str, str | None]]) -> Sequence[float | None]:
        """One reward per pair, by kind."""
        rewards: dict[int, float | None] = {}
        parts: list[tuple[_NextStateScore, Callable[[str | None], bool]]] = [
            (self.rouge, lambda kind: kind == "tool"),
            (self.embedding, lambda kind: kind != "tool"),
        ]
        for scorer, mine in parts:
            some = [pair for pair in pairs if mine(pair[3])]
            rewards.update(
                (pair[0], reward) for pair, reward in zip(some, scorer.score(some), strict=True)
            )
        return [rewards[pair[0]] for pair in pairs]


def make_reward(recipe: RewardRecipe) -> NextStateReward:
    """The reward of a recipe; training and evaluation use the same one."""
    return NextStateReward(
        encoder=resolve_encoder(recipe.encoder), tau_d=recipe.tau_d, round_to=recipe.round_to
    )


def completion_text(completion: Completion) -> str:
    """Text of a completion: TRL gives strings, or lists of chat messages for chat prompts."""
    if isinstance(completion, str):
        return completion
    return str(completion[-1].get("content") or "") if completion else ""


def round_ties_up(value: float, step: float) -> float:
    """Rounds to the nearest multiple of `step`, ties up, in decimal arithmetic.

    The value is first cut to 9 decimals, so that 0.7 computed as 0.69999999999 is still a tie.
    """
    unit = Decimal(str(step))
    exact = Decimal(str(round(value, 9)))
    return float((exact / unit).quantize(Decimal(1), rounding=ROUND_HALF_UP) * unit)
