"""Encoders: each text is embedded once, and gaps are cosine distances."""

import numpy as np
import pytest

from rwml.encoders import CachedEncoder, as_encoder, gaps
from rwml.errors import RewardError
from rwml.testing import BagOfWordsEncoder


def test_equal_texts_are_embedded_once() -> None:
    inner = BagOfWordsEncoder()
    encoder = CachedEncoder(inner)
    first = encoder.encode(["a b", "c", "a b"])
    second = encoder.encode(["c", "d"])
    assert inner.texts == ["a b", "c", "d"]
    np.testing.assert_array_equal(first[0], first[2])
    np.testing.assert_array_equal(first[1], second[0])


def test_the_cache_is_bounded_and_stays_right() -> None:
    inner = BagOfWordsEncoder()
    encoder = CachedEncoder(inner, capacity=2)
    texts = ["a", "b", "c"]
    np.testing.assert_array_equal(encoder.encode(texts), BagOfWordsEncoder().encode(texts))
    encoder.encode(["a"])
    assert inner.texts == ["a", "b", "c", "a"]
    encoder.encode(["c"])
    assert inner.texts == ["a", "b", "c", "a"]


def test_gaps() -> None:
    found = gaps(
        BagOfWordsEncoder(), ["red lamp", "red lamp", "lamp"], ["red lamp", "x y", "red lamp"]
    )
    assert found == pytest.approx([0.0, 1.0, 1 - 2**-0.5], abs=1e-6)
    assert gaps(BagOfWordsEncoder(), [], []) == []


def test_what_is_no_encoder_is_refused() -> None:
    with pytest.raises(RewardError, match="an encoder is"):
        as_encoder(42)  # type: ignore[arg-type]


def test_a_missing_model_folder_is_one_clear_error(tmp_path) -> None:
    pytest.importorskip("sentence_transformers")
    with pytest.raises(RewardError, match="cannot load the encoder"):
        as_encoder(str(tmp_path / "nothing")).encode(["a"])
