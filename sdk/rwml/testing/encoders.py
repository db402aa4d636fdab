"""An encoder without a model, for tests of rewards and of what asks for embeddings."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

DIMENSIONS = 256


class BagOfWordsEncoder:
    """An encoder without a model: counts words by hash, so that texts sharing words are close.

    Attributes:
        texts: every text it was asked to embed, in order.
    """

    name = "bag-of-words"

    def __init__(self) -> None:
        self.texts: list[str] = []

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Embeds texts: n strings to an (n, 256) array of unit rows."""
        import numpy as np

        self.texts.extend(texts)
        vectors = np.zeros((len(texts), DIMENSIONS), dtype=np.float32)
        for row, text in enumerate(texts):
            for word in text.lower().split() or [""]:
                digest = hashlib.sha256(word.encode("utf-8", "surrogatepass")).digest()
                vectors[row, int.from_bytes(digest[:4], "big") % DIMENSIONS] += 1.0
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
