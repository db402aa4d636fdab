"""Rewards: scored completions, against encoding every prediction and target each time."""

from __future__ import annotations

from tests.benchmarks.measure import Result, rates

from rwml.encoders import SentenceTransformerEncoder, gaps
from rwml.testing import make_trajectory
from rwml_trainer.rewards import EmbeddingReward
from rwml_trainer.small_models import MINILM, resolve_encoder

PROMPTS = 8
GROUP = 8


def reward_vs_naive() -> Result:
    """Completions per second on groups of 8, of which half are equal, as late in a training."""
    encoder = SentenceTransformerEncoder(resolve_encoder(MINILM))
    encoder.encode(["a text"])
    round_number = 0
    targets = [
        f"{make_trajectory(task).steps[-1].observation[0].content}"
        for task in range(PROMPTS)
        for _ in range(GROUP)
    ]

    def predictions() -> list[str]:
        return [
            f"Yes, cancel order {place // GROUP}, round {round_number}, {place % (GROUP // 2)}."
            for place in range(PROMPTS * GROUP)
        ]

    reward = EmbeddingReward(encoder=encoder, tau_d=0.4)

    def ours() -> None:
        nonlocal round_number
        round_number += 1
        completions = [f"<next_state>{text}</next_state>" for text in predictions()]
        reward(completions=completions, next_state=targets)

    def naive() -> None:
        gaps(encoder, predictions(), targets)

    return rates(
        "reward_vs_naive", ours=ours, baseline=naive, units=PROMPTS * GROUP, unit="completions/s"
    )


def reward_vs_encode() -> Result:
    """Texts per second on completions and targets that all differ, against encoding them bare."""
    encoder = SentenceTransformerEncoder(resolve_encoder(MINILM))
    encoder.encode(["a text"])
    reward = EmbeddingReward(encoder=encoder, tau_d=0.4)
    count = PROMPTS * GROUP
    turn = 0

    def texts(what: str) -> list[str]:
        return [f"Yes, {what} {place} of turn {turn}, please cancel it." for place in range(count)]

    def ours() -> None:
        nonlocal turn
        turn += 1
        completions = [f"<next_state>{text}</next_state>" for text in texts("order")]
        reward(completions=completions, next_state=texts("item"))

    def bare() -> None:
        nonlocal turn
        turn += 1
        encoder.encode([*texts("order"), *texts("item")])

    return rates("reward_vs_encode", ours=ours, baseline=bare, units=2 * count, unit="texts/s")
