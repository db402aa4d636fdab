"""Encoders: each text is embedded once, and gaps are cosine distances."""

import numpy as np
import pytest

from rwml.encoders import HTTP_ATTEMPTS, CachedEncoder, HttpEncoder, as_encoder, gaps
from rwml.errors import EncoderUnavailableError, RewardError
from rwml.testing import BagOfWordsEncoder, OpenAIServer


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


def test_what_is_used_again_is_forgotten_last() -> None:
    inner = BagOfWordsEncoder()
    encoder = CachedEncoder(inner, capacity=2)
    for texts in (["target"], ["a"], ["target"], ["b"], ["target"]):
        encoder.encode(texts)
    assert inner.texts == ["target", "a", "b"]


def test_a_served_encoder_embeds_in_batches_and_in_order() -> None:
    texts = ["a b", "c", "d e f"]
    with OpenAIServer() as server:
        vectors = HttpEncoder(server.url, model="bag", batch_size=2).encode(texts)
        assert [request["input"] for request in server.requests] == [["a b", "c"], ["d e f"]]
        assert server.requests[0]["model"] == "bag"
        assert "Authorization" not in server.headers[0]
    np.testing.assert_allclose(vectors, BagOfWordsEncoder().encode(texts), atol=1e-6)


def test_a_busy_endpoint_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENCODER_KEY", "secret")
    with OpenAIServer(failures=(503, 429)) as server:
        encoder = HttpEncoder(server.url, model="bag", key_env="ENCODER_KEY")
        assert encoder.encode(["a"]).shape == (1, 256)
        assert server.headers[2]["Authorization"] == "Bearer secret"
    with pytest.raises(EncoderUnavailableError, match="did not answer"):
        encoder.encode(["a"])


def test_what_an_endpoint_does_wrong_is_one_clear_error() -> None:
    with OpenAIServer(failures=(401,)) as server:
        encoder = HttpEncoder(server.url, model="bag")
        with pytest.raises(RewardError, match=r"refused a request: status 401: .*not now"):
            encoder.encode(["a"])
        with pytest.raises(RewardError, match="answered no embeddings"):
            HttpEncoder(f"{server.url}/chat", model="bag").encode(["a"])
    with OpenAIServer(failures=(500,) * HTTP_ATTEMPTS) as server:
        encoder = HttpEncoder(server.url, model="bag")
        with pytest.raises(EncoderUnavailableError, match="status 500"):
            encoder.encode(["a"])
        assert len(server.requests) == HTTP_ATTEMPTS


def test_a_wrong_url_or_a_missing_key_is_told_at_once() -> None:
    for url in ("localhost:8000", "file:///etc/passwd", "http://"):
        with pytest.raises(RewardError, match="URL looks like"):
            HttpEncoder(url, model="bag")
    with pytest.raises(RewardError, match="set NO_SUCH_KEY"):
        HttpEncoder("http://127.0.0.1:1/v1", model="bag", key_env="NO_SUCH_KEY")
