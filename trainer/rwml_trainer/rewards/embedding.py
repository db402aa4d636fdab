"""The binary reward on the distance of embeddings (RWML sec. 2.2)."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from rwml.encoders import Encoder, as_encoder, gaps
from rwml.errors import EncoderUnavailableError, RewardError
from rwml.schema import Kind
from rwml_trainer.rewards.scoring import NextStateScore, Pair

MAX_FAILED_BATCHES = 5
"""So many batches in a row may go unscored while an encoder's endpoint is down (ours)."""
_LOG = logging.getLogger(__name__)


class EmbeddingReward(NextStateScore):
    """1 where the sim-to-real gap is below ``tau_d``, else 0 (RWML sec. 2.2).

    Args:
        encoder: a sentence-transformers folder or name, or an `Encoder`.
        tau_d: threshold on the cosine distance, in (0, 2]; or one for each kind, and then other
            kinds cannot be scored.

    Attributes:
        unscored: predictions that got None since the encoder's endpoint was down.

    Raises:
        RewardError: ``tau_d`` is out of range.
    """

    __name__ = "embedding_reward"

    def __init__(self, *, encoder: str | Encoder, tau_d: float | Mapping[Kind, float]) -> None:
        for value in tau_d.values() if isinstance(tau_d, Mapping) else [tau_d]:
            if not 0 < value <= 2:
                raise RewardError(f"tau_d is a cosine distance above 0 and at most 2, not {value}")
        self.encoder = as_encoder(encoder)
        self.tau_d = tau_d
        self.unscored = 0
        self._failed_batches = 0

    def scores(self, kind: str | None) -> bool:
        """Whether rows of this kind can be scored."""
        return not isinstance(self.tau_d, Mapping) or kind in self.tau_d

    def score(self, pairs: Sequence[Pair]) -> Sequence[float | None]:
        """One binary reward per pair; None for all of them while the encoder is out of reach.

        Raises:
            EncoderUnavailableError: it has been so for `MAX_FAILED_BATCHES` batches.
        """
        predictions, targets = [p.prediction for p in pairs], [p.target for p in pairs]
        try:
            distances = gaps(self.encoder, predictions, targets)
        except EncoderUnavailableError as error:
            self.unscored += len(pairs)
            self._failed_batches += 1
            if self._failed_batches >= MAX_FAILED_BATCHES:
                raise
            _LOG.warning("%d predictions are not scored: %s", len(pairs), error)
            return [None] * len(pairs)
        self._failed_batches = 0
        limits = [threshold_for(self.tau_d, pair.kind) for pair in pairs]
        return [
            1.0 if distance < limit else 0.0
            for distance, limit in zip(distances, limits, strict=True)
        ]


def threshold_for(tau_d: float | Mapping[Kind, float], kind: str | None) -> float:
    """The threshold of a kind, where there may be one for each.

    Raises:
        RewardError: there is none for this kind.
    """
    if not isinstance(tau_d, Mapping):
        return tau_d
    for known, value in tau_d.items():
        if known == kind:
            return value
    raise RewardError(f"there is no threshold for next states of kind {kind!r}: add it to tau_d")
