"""The binary reward on the distance of embeddings (RWML sec. 2.2)."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from rwml.encoders import Encoder, as_encoder, gaps
from rwml.errors import EncoderUnavailableError, RewardError
from rwml_trainer.rewards.scoring import NextStateScore, Pair

MAX_FAILED_BATCHES = 5
"""So many batches in a row may go unscored while an encoder's endpoint is down (ours)."""
_LOG = logging.getLogger(__name__)


class EmbeddingReward(NextStateScore):
    """1 where the sim-to-real gap is below ``tau_d``, else 0 (RWML sec. 2.2).

    Args:
        encoder: a sentence-transformers folder or name, or an `Encoder`.
        tau_d: threshold on the cosine distance, in (0, 2].

    Attributes:
        unscored: predictions that got None since the encoder's endpoint was down.

    Raises:
        RewardError: ``tau_d`` is out of range.
    """

    __name__ = "embedding_reward"

    def __init__(self, *, encoder: str | Encoder, tau_d: float) -> None:
        if not 0 < tau_d <= 2:
            raise RewardError(f"tau_d is a cosine distance above 0 and at most 2, not {tau_d}")
        self.encoder = as_encoder(encoder)
        self.tau_d = tau_d
        self.unscored = 0
        self._failed_batches = 0

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
        return [1.0 if distance < self.tau_d else 0.0 for distance in distances]
