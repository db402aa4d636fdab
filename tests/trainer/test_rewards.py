"""Rewards: hand-computed cases, and what counts as unscorable."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer

from rwml.errors import EncoderUnavailableError, RewardError, UsageError
from rwml.testing import BagOfWordsEncoder, OpenAIServer
from rwml_trainer.recipes import RewardRecipe
from rwml_trainer.rewards import (
    EmbeddingReward,
    ExactReward,
    JudgeReward,
    NextStateReward,
    RougeReward,
    make_reward,
    make_training_reward,
    round_ties_up,
)
from rwml_trainer.rewards.embedding import MAX_FAILED_BATCHES


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


# Worked by hand. Bag of words: the cosine is (words in common) / sqrt(words x words), where all
# words differ. rougeL F1: 2LCS / (words + words), then to the nearest 0.2, ties up.
COMPOSITE = [
    # kind, prediction, target, tau_d, reward
    ("user", "yes please", "yes please", 0.4, 1.0),
    ("user", "a b c d", "a b c e", 0.25, 0.0),  # gap 1 - 3/4, not below 0.25
    ("user", "a b c d", "a b c e", 0.26, 1.0),
    ("user", "a", "a b c d", 0.5, 0.0),  # gap 1 - 1/2
    ("environment", "a b", "a b c", 0.2, 1.0),  # gap 1 - 2/sqrt(6) = 0.184
    ("environment", "a b", "a b c", 0.18, 0.0),
    ("environment", "x", "a", 0.4, 0.0),
    ("tool", "a b c d", "a b c e", 0.4, 0.8),  # 6/8 = 0.75
    ("tool", "a b", "a b c", 0.4, 0.8),  # 4/5
    ("tool", "a b c", "a x y z q r s", 0.4, 0.2),  # 2/10 = 0.2
    ("tool", "a", "a b c d e f g h i j k l m n o p q r s", 0.4, 0.2),  # 2/20 = 0.1, a tie: up
    ("tool", "c b a", "a b c", 0.4, 0.4),  # one in order: 2/6 = 0.33
    ("tool", '{"type":"object"}', '{"type": "object"}', 0.4, 1.0),
    ("tool", "Error: x", "Error: y", 0.4, 0.6),  # 2/4 = 0.5, a tie: up
]


@pytest.mark.parametrize(("kind", "prediction", "target", "tau_d", "expected"), COMPOSITE)
def test_composite_by_hand(
    kind: str, prediction: str, target: str, tau_d: float, expected: float
) -> None:
    reward = NextStateReward(encoder=BagOfWordsEncoder(), tau_d=tau_d)
    got = reward(completions=[tagged(prediction)], next_state=[target], kind=[kind])
    assert got == [expected]


def test_each_kind_may_have_its_own_threshold() -> None:
    reward = NextStateReward(encoder=BagOfWordsEncoder(), tau_d={"user": 0.26, "environment": 0.25})
    told = {"completions": [tagged("a b c d")] * 3, "next_state": ["a b c e"] * 3}  # gap 1 - 3/4
    assert reward(**told, kind=["user", "environment", "tool"]) == [1.0, 0.0, 0.8]
    users = NextStateReward(encoder=BagOfWordsEncoder(), tau_d={"user": 0.26})
    assert users(**told, kind=["user", "environment", "tool"]) == [1.0, None, 0.8]
    composite = make_training_reward(RewardRecipe(type="embedding"), users)
    assert composite(**told, kind=["user", "tool", "user"]) == [1.0, None, 1.0]
    with pytest.raises(RewardError, match="tau_d is a cosine distance"):
        EmbeddingReward(encoder=BagOfWordsEncoder(), tau_d={"user": 3.0})


@given(
    st.lists(
        st.tuples(WORDS, WORDS, st.sampled_from(["tool", "user", "environment", None])), max_size=6
    )
)
def test_a_batch_scores_as_its_rows_do(rows: list[tuple[str, str, str | None]]) -> None:
    def score(some: list[tuple[str, str, str | None]]) -> Any:
        return NextStateReward(encoder=BagOfWordsEncoder())(
            completions=[tagged(prediction) for prediction, _, _ in some],
            next_state=[target for _, target, _ in some],
            kind=[kind for _, _, kind in some],
        )

    assert score(rows) == [reward for row in rows for reward in score([row])]


def test_a_served_encoder_scores_as_the_local_one() -> None:
    rows: Any = {
        "completions": [tagged("red lamp"), tagged("lamp"), tagged("x")],
        "next_state": ["red lamp", "red lamp", "red lamp"],
        "kind": ["user"] * 3,
    }
    with OpenAIServer() as server:
        recipe = RewardRecipe(
            encoder="bag", encoder_url=server.url, tau_d=0.3, encoder_batch_size=2
        )
        reward = make_reward(recipe)
        local = NextStateReward(encoder=BagOfWordsEncoder(), tau_d=0.3)
        assert reward(**rows) == local(**rows) == [1.0, 1.0, 0.0]
        assert [request["input"] for request in server.requests] == [["red lamp", "lamp"], ["x"]]
        assert reward(**rows) == [1.0, 1.0, 0.0]
        assert len(server.requests) == 2, "what was embedded is not asked for again"


def test_while_the_encoder_is_down_there_is_no_reward_and_then_an_error() -> None:
    class Down(BagOfWordsEncoder):
        is_down = True

        def encode(self, texts: Any) -> Any:
            if self.is_down:
                raise EncoderUnavailableError("down")
            return super().encode(texts)

    encoder = Down()
    reward = NextStateReward(encoder=encoder)
    rows: Any = {
        "completions": [tagged("a"), "no tags", tagged("a")],
        "next_state": ["a"] * 3,
        "kind": ["user", "user", "tool"],
    }
    for _ in range(MAX_FAILED_BATCHES - 1):
        assert reward(**rows) == [None, 0.0, 1.0]
    encoder.is_down = False
    assert reward(**rows) == [1.0, 0.0, 1.0]
    encoder.is_down = True
    rows["completions"][0] = tagged("b")  # "a" is known by now
    for _ in range(MAX_FAILED_BATCHES - 1):
        assert reward(**rows) == [None, 0.0, 1.0]
    with pytest.raises(EncoderUnavailableError):
        reward(**rows)
    assert reward.embedding.unscored == 2 * MAX_FAILED_BATCHES - 1


def test_exact_reward() -> None:
    rewards = ExactReward()(
        completions=[tagged(" a b "), tagged("a  b"), "a b", tagged("x")],
        next_state=["a b", "a b", "a b", None],
    )
    assert rewards == [1.0, 0.0, 0.0, None]


class Judge:
    """Answers in turn; remembers what it was asked."""

    def __init__(self, *answers: str | None) -> None:
        self.answers = list(answers)
        self.asked: list[Any] = []

    def ask(self, questions: Any) -> list[str | None]:
        self.asked += questions
        return [self.answers.pop(0) for _ in questions]


def test_a_judge_scores_what_is_not_equal() -> None:
    judge = Judge("<score>0.25</score>", "I think <score>1</score>")
    reward = JudgeReward(judge=judge, mode="real")
    completions = [tagged("same"), tagged("a"), tagged("b"), tagged("a"), "no tags"]
    assert reward(completions=completions, next_state=["same"] * 5) == [1, 0.25, 1, 0.25, 0]
    assert len(judge.asked) == 2
    assert reward(completions=completions[:4], next_state=["same"] * 4) == [1, 0.25, 1, 0.25]
    assert len(judge.asked) == 2


@pytest.mark.parametrize(
    ("mode", "answer", "expected"),
    [
        ("binary", "<score>1</score>", 1.0),
        ("binary", "<score>0</score>", 0.0),
        ("binary", "<score>0.5</score>", None),
        ("real", "<score>0.5</score>", 0.5),
        ("real", "<score>1.5</score>", None),
        ("real", "<score>0</score><score>1</score>", None),
        ("real", "0.5", None),
        ("real", "", None),
        ("real", None, None),
    ],
)
def test_a_judge_without_a_score_gives_none(mode: Any, answer: Any, expected: Any) -> None:
    reward = JudgeReward(judge=Judge(answer), mode=mode)
    assert reward(completions=[tagged("a")], next_state=["b"]) == [expected]
    assert reward.unscored == (expected is None)


def test_a_judge_behind_litellm() -> None:
    def answer(body: Any) -> str:
        return "<score>1</score>" if '"predicted": "yes' in str(body["messages"]) else "?"

    with OpenAIServer(answer=answer) as server:
        recipe = RewardRecipe(
            type="judge", judge="openai/judge", judge_url=server.url, judge_key_env="JUDGE_KEY"
        )
        composite = NextStateReward(encoder=BagOfWordsEncoder())
        with pytest.raises(UsageError, match="set JUDGE_KEY"):
            make_training_reward(recipe, composite)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("JUDGE_KEY", "secret")
            reward = make_training_reward(recipe, composite)
        rewards = reward(completions=[tagged("yes"), tagged("no")], next_state=["Yes."] * 2)
        assert rewards == [1.0, None]
        assert server.headers[0]["Authorization"] == "Bearer secret"


def test_the_recipe_says_what_is_trained_on() -> None:
    composite = NextStateReward(encoder=BagOfWordsEncoder(), tau_d=0.3)
    assert make_training_reward(RewardRecipe(), composite) is composite
    binary = make_training_reward(RewardRecipe(type="embedding"), composite)
    assert binary(completions=[tagged("lamp")], next_state=["red lamp"], kind=["tool"]) == [1.0]
    assert isinstance(make_training_reward(RewardRecipe(type="exact"), composite), ExactReward)
    with pytest.raises(RewardError, match="name the judge"):
        make_training_reward(RewardRecipe(type="judge-real"), composite)
    with pytest.raises(RewardError, match="rwml calibrate"):
        make_reward(RewardRecipe(tau_d="calibrated"))
