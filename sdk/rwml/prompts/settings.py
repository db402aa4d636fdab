"""How the prompts of a world model are made: the same in training and whenever it is asked.

A model answers best what it was trained on, to the letter. So what decides over a prompt is one
object, which a dataset's recipe gives, a run keeps, and `rwml.WorldModel` reads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field

from rwml.prompts.profiles import Profile, Prompt, render_prompt
from rwml.prompts.templates import Templates
from rwml.prompts.tokenizers import render_chat
from rwml.prompts.tokens import TokenCounter
from rwml.schema import Transition

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

HISTORY = 10
"""H, earlier turns in the context (ours: the paper gives no H)."""
MAX_PROMPT_TOKENS = 12_000
"""Longest prompt, chat template included (ours)."""


class PromptSettings(BaseModel):
    """What decides over a prompt.

    Attributes:
        profile: ``paper`` (RWML tables A4-A7) or ``compact`` (ours).
        history: H, earlier turns in the context.
        mask_tools: whether JSON tool results were replaced by their schema (RWML app. C.1); of the
            next states, for the context is shown as it was.
        max_prompt_tokens: longest prompt, chat template included.
        templates: of the paper profile; None for those that come with rwml.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    profile: Profile = "paper"
    history: int = Field(default=HISTORY, ge=0)
    mask_tools: bool = True
    max_prompt_tokens: int = Field(default=MAX_PROMPT_TOKENS, ge=1)
    templates: Templates | None = None

    @property
    def needs_tokenizer(self) -> bool:
        """Whether the prompt's form depends on its length: the compact profile shortens."""
        return self.profile == "compact"


class PromptMaker:
    """Makes the prompts of transitions. Not for several threads at once.

    Args:
        settings: that decide.
        tokenizer: measures prompts, with its chat template; None to take every length, as the
            paper profile can.

    Attributes:
        tokens: of the last prompt that was made; 0 where nothing measured it.
    """

    def __init__(
        self, settings: PromptSettings, tokenizer: PreTrainedTokenizerBase | None = None
    ) -> None:
        self._settings = settings
        self._tokenizer = tokenizer
        self._counter = None if tokenizer is None else TokenCounter(tokenizer)
        self.tokens = 0

    def __call__(self, transition: Transition) -> Prompt | None:
        """The prompt of a transition; None where no allowed form is short enough.

        Args:
            transition: its context holds no more than the settings' history.
        """
        return render_prompt(
            transition,
            profile=self._settings.profile,
            fits=None if self._tokenizer is None else self._fits,
            templates=self._settings.templates,
        )

    def count(self, text: str, *, limit: int) -> int | None:
        """Tokens of a text; None where there are more than `limit`, or nothing can measure."""
        return None if self._counter is None else self._counter.within(text, limit)

    def _fits(self, prompt: Prompt) -> bool:
        if self._tokenizer is None:
            return True
        text = render_chat(self._tokenizer, prompt)
        tokens = self.count(text, limit=self._settings.max_prompt_tokens)
        self.tokens = tokens or 0
        return tokens is not None
