"""The encoder of a recipe, and a mark by which the same one is known again.

Data, training and evaluation must measure with one frozen encoder: a gap of 0.2 means another
thing with another one. A local encoder is known by the hash of its files, a served one by the
angles between a few fixed texts.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict

from rwml.encoders import CachedEncoder, Encoder, HttpEncoder, SentenceTransformerEncoder
from rwml.errors import RewardError
from rwml.files import folder_sha256
from rwml_trainer.recipes import RewardRecipe
from rwml_trainer.small_models import resolve_encoder

PROBES = (
    "Error: order not found",
    "You open the fridge. In it, you see a tomato 1.",
    '{"type":"object","properties":{"order_id":{"type":"string"}}}',
    "Yes, please go ahead.",
)
TOLERANCE = 0.02
"""Angles' cosines may differ by so much: devices and precisions round in their own ways (ours)."""
_FILES = (".safetensors", ".json", ".txt", ".model")


class EncoderMark(BaseModel):
    """What an encoder is known again by.

    Attributes:
        name: as recipes call it; two names may be one encoder.
        sha256: of its files; None for a served one, and for one from a hub's cache.
        cosines: between each two of `PROBES`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    sha256: str | None
    cosines: tuple[float, ...]

    def is_same_as(self, other: EncoderMark) -> bool:
        """Whether two marks are of one encoder."""
        if self.sha256 and other.sha256:
            return self.sha256 == other.sha256
        pairs = zip(self.cosines, other.cosines, strict=True)
        return all(abs(mine - its) <= TOLERANCE for mine, its in pairs)


def make_encoder(recipe: RewardRecipe) -> CachedEncoder:
    """The encoder of a recipe; nothing is loaded or asked yet.

    Raises:
        RewardError: its endpoint's URL or key is missing.
        MissingExtraError: the package that ships its weights is not installed.
    """
    if recipe.encoder_url is not None:
        served = HttpEncoder(
            recipe.encoder_url,
            model=recipe.encoder,
            key_env=recipe.encoder_key_env,
            batch_size=recipe.encoder_batch_size,
        )
        return CachedEncoder(served)
    name = resolve_encoder(recipe.encoder)
    return CachedEncoder(SentenceTransformerEncoder(name, batch_size=recipe.encoder_batch_size))


def mark_encoder(encoder: Encoder, *, name: str | None = None) -> EncoderMark:
    """Takes an encoder's mark; loads it.

    Args:
        encoder: to be known again.
        name: as the recipe calls it; by default its own.
    """
    vectors = encoder.encode(list(PROBES))
    cosines = vectors @ vectors.T
    pairs = [(a, b) for a in range(len(PROBES)) for b in range(a)]
    folder = Path(encoder.name)
    return EncoderMark(
        name=name or encoder.name,
        sha256=folder_sha256(folder, suffixes=_FILES) if folder.is_dir() else None,
        cosines=tuple(round(float(cosines[pair]), 4) for pair in pairs),
    )


def check_encoder(mark: EncoderMark, expected: EncoderMark | None, *, of: str) -> None:
    """Refuses another encoder than the one that was used before.

    Args:
        mark: of the encoder at hand.
        expected: of the earlier one; None where there was none.
        of: what used the earlier one, for the message.

    Raises:
        RewardError: they differ.
    """
    if expected is not None and not mark.is_same_as(expected):
        raise RewardError(
            f"{of} was measured with another encoder ({expected.name}) than {mark.name}: gaps do "
            f"not compare; pass --encoder {expected.name}, or make it anew"
        )
