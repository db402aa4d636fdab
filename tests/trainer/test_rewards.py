"""Rewards: hand-computed cases, and what counts as unscorable."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer

from rwml.errors import RewardError
from rwml.testing import BagOfWordsEncoder
from rwml_trainer.rewards import EmbeddingReward, NextStateReward, RougeReward, round_ties_up


def tagged(text: str) -> str:
    return f"<think></think><next_state>{text}</next_state>"


@pytest.mark.parametrize(
    ("value", "step", "rounded"),
    [
        (0.7, 0.2, 0.8),
        (0.1 + 0.2, 0.2, 0.4),
        (0.3, 0.2, 0.4),
        (0.5, 0.2, 0.6),
        (0.09999, 0.2, 0.0),
        (0.1, 0.2, 0.2),
        (1.0, 0.2, 1.0),
        (0.15 + 0.15, 0.2, 0.4),
        (0.333, 0.1, 0.3),
        (0.26, 0.25, 0.25),
    ],
)
def test_rounding_is_decimal_with_ties_up(value: float, step: float, rounded: float) -> None:
    assert round_ties_up(value, step) == rounded


@pytest.mark.parametrize(
    ("prediction", "target", "expected"),
    [
        ("order not found", "order not found", 1.0),
        # common subsequence "order found": precision 2/2, recall 2/3, F1 0.8
        ("order found", "order not found", 0.8),
        # one of four words on each side: F1 0.25 -> 0.2
        ("a b c order", "order x y z", 0.2),
        ("nothing at all", "order not found", 0.0),
        # underscores part words: three of four
        ("yusuf_rossi", "yusuf_rossi_9620", 0.8),
        ("订单未找到", "订单未找到", 1.0),
        ("заказ не найден", "заказ найден", 0.8),
        ("✓", "✓", 1.0),
        ("✓", "✗", 0.0),
    ],
)
def test_rouge_by_hand(prediction: str, target: str, expected: float) -> None:
    assert RougeReward()(completions=[tagged(prediction)], next_state=[target]) == [expected]


WORDS = st.text("ab _1.é", max_size=20)


@given(WORDS, WORDS)
def test_ascii_words_are_those_of_the_package(prediction: str, target: str) -> None:
    prediction, target = (text.encode("ascii", "ignore").decode() for text in (prediction, target))
    expected = RougeScorer(["rougeL"]).score(target, prediction)["rougeL"].fmeasure
    if prediction.strip() and target.strip() and prediction.strip() != target.strip():
        (reward,) = RougeReward(round_to=0.01)(
            completions=[tagged(prediction)], next_state=[target]
        )
        assert reward == round_ties_up(expected, 0.01)


def test_embedding_reward_is_strictly_below_the_threshold() -> None:
    # "red lamp" against "lamp": cosine 1/sqrt(2), gap 0.2929
    completions, states = [tagged("lamp")] * 2, ["red lamp", "lamp"]
    wide = EmbeddingReward(encoder=BagOfWordsEncoder(), tau_d=0.3)
    narrow = EmbeddingReward(encoder=BagOfWordsEncoder(), tau_d=0.29)
    assert wide(completions=completions, next_state=states) == [1.0, 1.0]
    assert narrow(completions=completions, next_state=states) == [0.0, 1.0]


def test_the_composite_goes_by_kind() -> None:
    reward = NextStateReward(encoder=BagOfWordsEncoder(), tau_d=0.1)
    rewards = reward(
        completions=[tagged("order found")] * 5,
        next_state=["order not found"] * 5,
        kind=["tool", "user", "environment", None, "somebody"],
    )
    assert rewards == [0.8, 0.0, 0.0, None, None]


def test_malformed_is_zero_and_unscorable_is_none() -> None:
    reward = NextStateReward(encoder=BagOfWordsEncoder())
    rewards = reward(
        completions=["yes", tagged(""), tagged("x" * 20_001), tagged("yes"), tagged("yes")],
        next_state=["yes", "yes", "yes", None, "  "],
        kind=["user"] * 5,
    )
    assert rewards == [0.0, 0.0, 0.0, None, None]


def test_chat_completions_are_read_too() -> None:
    completion = [{"role": "assistant", "content": tagged("yes")}]
    reward = EmbeddingReward(encoder=BagOfWordsEncoder(), tau_d=0.1)
    assert reward(completions=[completion, []], next_state=["yes", "yes"]) == [1.0, 0.0]


def test_extra_columns_of_trl_are_ignored() -> None:
    reward = RougeReward()
    scores = reward(
        completions=[tagged("a")], next_state=["a"], prompts=["p"], completion_ids=[[1]], id=["x"]
    )
    assert scores == [1.0]


def test_equal_texts_are_embedded_once() -> None:
    encoder = BagOfWordsEncoder()
    reward = EmbeddingReward(encoder=encoder, tau_d=0.5)
    for _ in range(2):
        reward(completions=[tagged("a"), tagged("a"), tagged("b")], next_state=["t"] * 3)
    assert sorted(encoder.texts) == ["a", "b", "t"]


def test_wrong_settings_are_refused() -> None:
    with pytest.raises(RewardError, match="tau_d"):
        EmbeddingReward(encoder=BagOfWordsEncoder(), tau_d=0)
    for step in (0, 2, 0.3, 0.4):
        with pytest.raises(RewardError, match="round_to must divide 1"):
            RougeReward(round_to=step)
    with pytest.raises(RewardError, match="one next_state and kind per completion"):
        RougeReward()(completions=["a", "b"], next_state=["a"])


def test_with_the_real_encoder() -> None:
    from rwml_trainer.small_models import MINILM, resolve_encoder

    reward = EmbeddingReward(encoder=resolve_encoder(MINILM), tau_d=0.4)
    rewards = reward(
        completions=[tagged("Yes, go ahead please."), tagged("The fridge is closed.")],
        next_state=["Yes, please go ahead."] * 2,
    )
    assert rewards == [1.0, 0.0]
