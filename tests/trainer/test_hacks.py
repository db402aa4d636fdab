"""Signs that a model games its reward: each by hand, and the threshold that stops a training."""

from typing import Any

import pytest

from rwml.errors import RewardHackError
from rwml.testing import BagOfWordsEncoder
from rwml_trainer.recipes import GuardRecipe
from rwml_trainer.rewards import HackDetectors, NextStateReward, logged_reward

OFF: dict[str, Any] = dict.fromkeys(("copies", "generic", "one_text", "length_ratio"))


def step(*rows: tuple[str, str, str]) -> Any:
    """A step of (what the prompt shows last, prediction, next state)."""
    return {
        "prompts": [[{"role": "user", "content": shown}] for shown, _, _ in rows],
        "completions": [f"<next_state>{said}</next_state>" for _, said, _ in rows],
        "next_state": [target for *_, target in rows],
    }


def test_copies_count_only_where_they_are_wrong() -> None:
    shown = "History: the fridge is closed. Action: open it."
    figures = HackDetectors(GuardRecipe()).observe(
        **step(
            (shown, "the fridge is closed.", "the fridge is open."),
            (shown, "the fridge is closed.", "the fridge is closed."),
            (shown, "open", "closed"),  # too short to tell
            (shown, "something else entirely", "the fridge is open."),
        )
    )
    assert figures["copies"] == 0.25


def test_what_is_common_elsewhere_is_generic() -> None:
    detectors = HackDetectors(GuardRecipe())
    first = detectors.observe(
        **step(*[("p", "x", "ok")] * 3, *[("p", "x", state) for state in "abcde"])
    )
    assert "generic" not in first
    second = detectors.observe(**step(("p", "ok", "z"), ("p", "ok", "ok"), ("p", "new", "z")))
    assert second["generic"] == pytest.approx(1 / 3)


def test_one_text_for_many_prompts_is_seen_across_steps() -> None:
    detectors = HackDetectors(GuardRecipe())
    for prompt in range(3):
        figures = detectors.observe(**step((f"p{prompt}", "always", f"state {prompt}")))
        assert "one_text" not in figures
    assert detectors.observe(**step(("p3", "other", "state 3")))["one_text"] == 0.75
    right = HackDetectors(GuardRecipe())
    seen = [right.observe(**step((f"p{n}", "always", "always"))) for n in range(6)]
    assert seen[-1]["one_text"] == 0.0


def test_lengths_drift_both_ways() -> None:
    detectors = HackDetectors(GuardRecipe())
    assert detectors.observe(**step(("p", "aaaa", "bb")))["length_ratio"] == 2.0
    assert detectors.observe(**step(("p", "a", "bbbb")))["length_ratio"] == 4.0
    nothing = detectors.observe(prompts=None, completions=["no tags"], next_state=["a"])
    assert nothing == {}


@pytest.mark.parametrize(
    ("limit", "rows"),
    [
        ({"copies": 0.5}, [("it is closed now", "it is closed now", "open")]),
        ({"one_text": 0.5}, [(f"p{n}", "always", f"s{n}") for n in range(4)]),
        ({"length_ratio": 3.0}, [("p", "aaaaaaaa", "b")]),
    ],
)
def test_a_threshold_stops_when_the_window_is_full(limit: dict[str, Any], rows: Any) -> None:
    detectors = HackDetectors(GuardRecipe(window=3, **(OFF | limit)))
    detectors.observe(**step(*rows))
    detectors.observe(**step(*rows))
    (name,) = limit
    with pytest.raises(RewardHackError, match=rf"\({name} .* change guards\.{name}"):
        detectors.observe(**step(*rows))
    watching = HackDetectors(GuardRecipe(window=1, **OFF))
    for _ in range(5):
        watching.observe(**step(*rows))


def test_a_reward_logs_signs_beside_itself() -> None:
    logged: dict[str, float] = {}
    reward = logged_reward(NextStateReward(encoder=BagOfWordsEncoder()))
    columns = step(("p", "a", "a"), ("p", "b", "a"))
    columns["completions"].append("no tags")
    columns["prompts"].append(columns["prompts"][0])
    columns["next_state"].append("a")
    rewards = reward(
        **columns, kind=["user", "user", "unknown"], log_metric=logged.__setitem__, id=["x"] * 3
    )
    assert rewards == [1.0, 0.0, None]
    assert logged["format_rate"] == pytest.approx(2 / 3)
    assert logged["unscored_rate"] == pytest.approx(1 / 3)
    assert logged["hack/length_ratio"] == 1.0
    assert reward.__name__ == "next_state_reward"
