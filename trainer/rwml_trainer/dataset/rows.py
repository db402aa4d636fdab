"""A transition becomes a row, or the reason why there is none. Knows no files and no splits."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from rwml.prompts import PromptMaker, PromptSettings, Templates, load_templates
from rwml.prompts.profiles import join_results, next_state_parts
from rwml.schema import Transition
from rwml_trainer.dataset.files import Row
from rwml_trainer.recipes import DataRecipe

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

REASONS = (
    "too_long",
    "prompt_too_long",
    "empty",
    "invalid_action",
    "arrived_late",
    "recorded_twice",
    "easy",
)
"""Why a transition is no row; ``easy`` ones are dropped by the filter, from training alone."""
INVALID_KEY = "invalid"
"""Step metadata in which an environment says how an action was invalid."""
UNREADABLE = "format"
"""Its value where the reply held no action at all; what an environment could read and refused
(``command``) is kept: that it is refused is to be learned."""


def group_key(transition: Transition) -> str:
    """What stays together on one side of the split: the task, else the thread or trajectory."""
    return transition.group


def is_invalid_action(transition: Transition) -> bool:
    """Whether nobody could read an action: no text and no call, or arguments that are no JSON.

    RWML sec. 2.2 removes some samples with invalid actions and does not say which (rule: ours).
    """
    action = transition.action
    if not action.tool_calls and not (action.content or "").strip():
        return True
    if any(call.raw_arguments is not None for call in action.tool_calls):
        return True
    return transition.step_metadata.get(INVALID_KEY) == UNREADABLE


def templates_of(recipe: DataRecipe) -> Templates | None:
    """The templates of a recipe's prompts; None for the compact profile, which has none."""
    if recipe.profile == "compact":
        return None
    return load_templates(Path(recipe.templates) if recipe.templates else None)


def prompt_settings(recipe: DataRecipe, templates: Templates | None) -> PromptSettings:
    """What decides over the prompts of a recipe.

    Args:
        recipe: of the dataset.
        templates: what `templates_of` found, or what a manifest kept of it.
    """
    return PromptSettings(
        profile=recipe.profile,
        history=recipe.history,
        mask_tools=recipe.mask_tools,
        max_prompt_tokens=recipe.max_prompt_tokens,
        templates=templates,
    )


class RowMaker:
    """Turns a transition into a row, or into the reason why it is left out.

    Attributes:
        masking: how many tool results became a schema, stayed text, or were cut.
        prompt_tokens: of the rows that were made: their number, sum and maximum.
        target_tokens: the same of next states.
    """

    def __init__(self, recipe: DataRecipe, tokenizer: PreTrainedTokenizerBase) -> None:
        self._data = recipe
        self.templates = templates_of(recipe)
        self._prompts = PromptMaker(prompt_settings(recipe, self.templates), tokenizer)
        self.masking: Counter[str] = Counter()
        self.prompt_tokens = Tally()
        self.target_tokens = Tally()

    def __call__(self, transition: Transition) -> Row | str:
        """The row, or the reason (one of `REASONS`) why there is none."""
        if self._data.drop_invalid_actions and is_invalid_action(transition):
            return "invalid_action"
        parts = next_state_parts(transition, mask=self._data.mask_tools)
        target = join_results(parts)
        if not target:
            return "empty"
        target_tokens = self._prompts.count(target, limit=self._data.max_target_tokens)
        if target_tokens is None:
            return "too_long"
        prompt = self._prompts(transition)
        if prompt is None:
            return "prompt_too_long"
        if transition.kind == "tool":
            self.masking.update(part.outcome for part in parts)
        self.prompt_tokens.add(self._prompts.tokens)
        self.target_tokens.add(target_tokens)
        return Row(
            prompt=prompt,
            next_state=target,
            kind=transition.kind,
            id=transition.id,
            source=transition.source,
            task_id=transition.task_id,
            tool=transition.tool,
        )


class Tally:
    """Number, sum and maximum of what was added."""

    def __init__(self) -> None:
        self.number = 0
        self.total = 0
        self.largest = 0

    def add(self, value: int) -> None:
        """Adds a value."""
        self.number += 1
        self.total += value
        self.largest = max(self.largest, value)

    @property
    def mean(self) -> float:
        """Mean of the values; 0 where there are none."""
        return self.total / self.number if self.number else 0.0
