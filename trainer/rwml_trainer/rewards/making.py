"""Makes the rewards of a recipe: one that evaluates, and one that trains."""

from __future__ import annotations

from rwml.errors import RewardError
from rwml_trainer.asking import Asker
from rwml_trainer.encoders import make_encoder
from rwml_trainer.recipes import RewardRecipe
from rwml_trainer.rewards.composite import NextStateReward
from rwml_trainer.rewards.embedding import EmbeddingReward
from rwml_trainer.rewards.judge import ExactReward, JudgeReward
from rwml_trainer.rewards.scoring import NextStateScore


def make_reward(recipe: RewardRecipe) -> NextStateReward:
    """The composite reward of a recipe: every evaluation uses it.

    Raises:
        RewardError: its threshold is to be calibrated, and no dataset has said to what.
    """
    if recipe.tau_d == "calibrated":
        raise RewardError("reward.tau_d is 'calibrated': set it to what 'rwml calibrate' finds")
    return NextStateReward(
        encoder=make_encoder(recipe), tau_d=recipe.tau_d, round_to=recipe.round_to
    )


def make_training_reward(recipe: RewardRecipe, composite: NextStateReward) -> NextStateScore:
    """The reward that a recipe trains on.

    Args:
        recipe: its ``type`` decides.
        composite: of the same recipe; its encoder is shared.

    Raises:
        RewardError: a judge is asked for and none is named.
    """
    if recipe.type == "next_state":
        return composite
    if recipe.type == "embedding":
        return EmbeddingReward(encoder=composite.embedding.encoder, tau_d=composite.embedding.tau_d)
    if recipe.type == "exact":
        return ExactReward()
    if recipe.judge is None:
        raise RewardError("name the judge: reward.judge is a model that LiteLLM knows")
    judge = Asker(recipe.judge, api_base=recipe.judge_url, api_key_env=recipe.judge_key_env)
    return JudgeReward(judge=judge, mode="binary" if recipe.type == "judge" else "real")
