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
