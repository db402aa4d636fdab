"""Embedding models that measure how far a prediction is from what really happened (RWML sec. 2.2).

An encoder is frozen and off the shelf. Libraries are imported when texts are first encoded, so
that importing this module costs nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from rwml.errors import RewardError
from rwml.extras import require

if TYPE_CHECKING:
    import numpy as np

CACHE_TEXTS = 50_000
"""Embeddings that a `CachedEncoder` keeps (384 floats each: about 75 MiB) (ours)."""


@runtime_checkable
class Encoder(Protocol):
    """Anything that embeds texts.

    `encode` takes n texts and returns an array of shape (n, d) with rows of unit length.
    """

    name: str

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Embeds texts: n strings to an (n, d) array of unit rows."""
        ...


class SentenceTransformerEncoder:
    """A sentence-transformers model, loaded at first use.

    Args:
        name: folder or hub name of the model.
        device: torch device; None lets the library choose.
        batch_size: texts per forward pass.
    """

    def __init__(self, name: str, *, device: str | None = None, batch_size: int = 64) -> None:
        self.name = name
        self._device = device
        self._batch_size = batch_size
        self._model: Any = None

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Embeds texts: n strings to an (n, d) array of unit rows.

        Raises:
            MissingExtraError: sentence-transformers is not installed.
            RewardError: the model cannot be loaded.
        """
        if self._model is None:
            self._model = self._load()
        return self._model.encode(
            list(texts),
            batch_size=self._batch_size,
            normalize_embeddings=True,
            convert_to_numpy=True,
            show_progress_bar=False,
        )

    def _load(self) -> Any:
        require("train", "sentence_transformers")
        from sentence_transformers import SentenceTransformer

        try:
            return SentenceTransformer(
                self.name,
                device=self._device,
                trust_remote_code=False,
                model_kwargs={"use_safetensors": True},
            )
        except (OSError, ValueError) as error:
            raise RewardError(f"cannot load the encoder {self.name}: {error}") from error


class CachedEncoder:
    """An encoder that embeds each different text once, in a batch and over time."""

    def __init__(self, encoder: Encoder, *, capacity: int = CACHE_TEXTS) -> None:
        self.name = encoder.name
        self._encoder = encoder
        self._capacity = capacity
        self._known: dict[str, np.ndarray] = {}

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Embeds texts: n strings to an (n, d) array of unit rows."""
        import numpy as np

        new = [text for text in dict.fromkeys(texts) if text not in self._known]
        fresh = dict(zip(new, self._encoder.encode(new), strict=True)) if new else {}
        rows = [fresh[text] if text in fresh else self._known[text] for text in texts]
        self._known.update(fresh)
        while len(self._known) > self._capacity:
            self._known.pop(next(iter(self._known)))
        return np.stack(rows) if rows else np.zeros((0, 0), dtype=np.float32)


def as_encoder(encoder: str | Encoder) -> CachedEncoder:
    """A caching encoder from a sentence-transformers name or folder, or from an `Encoder`.

    Raises:
        RewardError: it is neither.
    """
    if isinstance(encoder, CachedEncoder):
        return encoder
    if isinstance(encoder, str):
        return CachedEncoder(SentenceTransformerEncoder(encoder))
    if isinstance(encoder, Encoder):
        return CachedEncoder(encoder)
    raise RewardError(
        f"an encoder is a sentence-transformers name or an object with name and encode(), "
        f"not {type(encoder).__name__}"
    )


def gaps(encoder: Encoder, predictions: Sequence[str], targets: Sequence[str]) -> list[float]:
    """Sim-to-real gaps ``d = 1 - cos(E(prediction), E(target))``, in [0, 2] (RWML sec. 2.2).

    Args:
        predictions: n predicted next states.
        targets: the n real ones.
    """
    if not predictions:
        return []
    vectors = encoder.encode([*predictions, *targets])
    count = len(predictions)
    cosines = (vectors[:count] * vectors[count:]).sum(axis=1)
    return [float(1.0 - cosine) for cosine in cosines]
