"""Sim-to-real rewards as TRL reward functions (RWML sec. 2.2, app. C.1, app. D)."""

from rwml_trainer.rewards.composite import NextStateReward
from rwml_trainer.rewards.embedding import EmbeddingReward, threshold_for
from rwml_trainer.rewards.hacks import HackDetectors
from rwml_trainer.rewards.judge import ExactReward, JudgeReward
from rwml_trainer.rewards.logged import logged_reward
from rwml_trainer.rewards.making import make_reward, make_training_reward
from rwml_trainer.rewards.rouge import RougeReward, round_ties_up
from rwml_trainer.rewards.scoring import (
    MAX_PREDICTION_CHARS,
    Completion,
    NextStateScore,
    Scores,
    completion_text,
)

__all__ = [
    "MAX_PREDICTION_CHARS",
    "Completion",
    "EmbeddingReward",
    "ExactReward",
    "HackDetectors",
    "JudgeReward",
    "NextStateReward",
    "NextStateScore",
    "RougeReward",
    "Scores",
    "completion_text",
    "logged_reward",
    "make_reward",
    "make_training_reward",
    "round_ties_up",
    "threshold_for",
]
