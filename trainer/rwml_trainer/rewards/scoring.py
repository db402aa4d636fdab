"""What every sim-to-real reward shares: reading completions and targets (RWML sec. 2.2).

Only the text inside ``<next_state>`` counts: no tags, an empty or an over-long prediction gives 0.
What cannot be scored (no target, an unknown kind, an encoder that is down) gives None, which TRL
leaves out of the group's reward; it is never turned into 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from rwml.errors import RewardError
from rwml.prompts import parse_prediction

MAX_PREDICTION_CHARS = 20_000
"""Longest prediction that is scored; anything longer gives 0 (ours)."""

Completion = str | list[dict[str, Any]]
Scores = list[float | None]


class Pair(NamedTuple):
    """A prediction with what really happened: place in the batch, both texts, who answered."""

    place: int
    prediction: str
    target: str
    kind: str | None


class NextStateScore:
    """Reads completions and targets; subclasses score the pairs that remain."""

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
        pairs: list[Pair] = []
        for place, (completion, target) in enumerate(zip(completions, next_state, strict=True)):
            if not target or not target.strip() or not self.scores(kinds[place]):
                continue
            prediction = parse_prediction(completion_text(completion)).next_state
            if prediction is None or len(prediction) > MAX_PREDICTION_CHARS:
                rewards[place] = 0.0
            else:
                pairs.append(Pair(place, prediction, target.strip(), kinds[place]))
        for pair, reward in zip(pairs, self.score(pairs), strict=True):
            rewards[pair.place] = reward
        return rewards

    def scores(self, kind: str | None) -> bool:
        """Whether rows of this kind can be scored."""
        return True

    def score(self, pairs: Sequence[Pair]) -> Sequence[float | None]:
        """One reward per pair."""
        raise NotImplementedError  # reason: abstract; every public reward implements it


def completion_text(completion: Completion) -> str:
    """Text of a completion: TRL gives strings, or lists of chat messages for chat prompts."""
    if isinstance(completion, str):
        return completion
    return str(completion[-1].get("content") or "") if completion else ""
