"""The paper's composite reward: who answered decides how it is scored (RWML app. C.1)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from rwml.encoders import Encoder
from rwml.schema import Kind
from rwml_trainer.rewards.embedding import EmbeddingReward
from rwml_trainer.rewards.rouge import RougeReward
from rwml_trainer.rewards.scoring import NextStateScore, Pair


class NextStateReward(NextStateScore):
    """The paper's composite: by who answered (RWML app. C.1).

    ``user`` and ``environment`` next states get the binary embedding reward, ``tool`` next states
    the rounded ROUGE. Other kinds cannot be scored.

    Args:
        encoder: a sentence-transformers folder or name, or an `Encoder`.
        tau_d: threshold of the embedding reward (0.4 for tau2, 0.2 for ALFWorld with the paper's
            encoder), or one for each kind.
        round_to: step of the ROUGE rounding.
    """

    __name__ = "next_state_reward"

    def __init__(
        self,
        *,
        encoder: str | Encoder,
        tau_d: float | Mapping[Kind, float] = 0.4,
        round_to: float = 0.2,
    ) -> None:
        self.embedding = EmbeddingReward(encoder=encoder, tau_d=tau_d)
        self.rouge = RougeReward(round_to=round_to)

    def scores(self, kind: str | None) -> bool:
        """Whether rows of this kind can be scored."""
        return kind == "tool" or (kind in ("user", "environment") and self.embedding.scores(kind))

    def score(self, pairs: Sequence[Pair]) -> Sequence[float | None]:
        """One reward per pair, by kind."""
        rewards: dict[int, float | None] = {}
        parts: list[tuple[NextStateScore, Callable[[str | None], bool]]] = [
            (self.rouge, lambda kind: kind == "tool"),
            (self.embedding, lambda kind: kind != "tool"),
        ]
        for scorer, mine in parts:
            some = [pair for pair in pairs if mine(pair.kind)]
            rewards.update(
                (pair.place, reward) for pair, reward in zip(some, scorer.score(some), strict=True)
            )
        return [rewards[pair.place] for pair in pairs]
