"""A reward as TRL wants it, with what a training should log beside it at every step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rwml.prompts import parse_prediction
from rwml_trainer.recipes import GuardRecipe
from rwml_trainer.rewards.hacks import HackDetectors
from rwml_trainer.rewards.scoring import NextStateScore, Scores, completion_text


def logged_reward(
    reward: NextStateScore, guards: GuardRecipe | None = None
) -> Callable[..., Scores]:
    """The reward, with the share of well-formed completions and signs of gaming logged.

    Args:
        reward: scores the completions.
        guards: thresholds at which the training is stopped; by default those of a recipe.

    Returns:
        A TRL reward function; it raises `RewardHackError` to stop the training.
    """
    detectors = HackDetectors(guards or GuardRecipe())

    def next_state_reward(**columns: Any) -> Scores:
        completions = columns["completions"]
        rewards = reward(**columns)
        figures = detectors.observe(
            prompts=columns.get("prompts"),
            completions=completions,
            next_state=columns["next_state"],
        )
        log_metric = columns.get("log_metric")
        if log_metric is not None:
            formed = [parse_prediction(completion_text(c)).next_state for c in completions]
            log_metric("format_rate", 1 - formed.count(None) / len(formed))
            log_metric("unscored_rate", rewards.count(None) / len(rewards))
            for name, value in figures.items():
                log_metric(f"hack/{name}", value)
        return rewards

    return next_state_reward
