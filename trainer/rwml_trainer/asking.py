"""Asks a model behind LiteLLM many questions at once, with patience and without leaking its key.

An answer that did not come is None: who asked decides what that means, and it is never a zero.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from rwml.errors import UsageError
from rwml.extras import require
from rwml.workers import Workers, results

RETRIES = 3
"""Of each question, with LiteLLM's own pauses (ours)."""
TIMEOUT_S = 120.0
_LOG = logging.getLogger(__name__)

Messages = Sequence[dict[str, str]]
Complete = Callable[..., Any]
"""As `litellm.completion`."""


class Asker:
    """A model, and how it is asked; safe to use from several threads.

    Args:
        model: as LiteLLM names it, such as ``openai/gpt-4.1``.
        api_base: of an endpoint of one's own.
        api_key_env: environment variable that holds the key; None for the provider's usual one.
        concurrency: questions at once.

    Raises:
        UsageError: the variable is not set.
        MissingExtraError: litellm is not installed.
    """

    def __init__(
        self,
        model: str,
        *,
        api_base: str | None = None,
        api_key_env: str | None = None,
        concurrency: int = 8,
    ) -> None:
        require("litellm", "litellm")
        key = os.environ.get(api_key_env) if api_key_env else None
        if api_key_env and not key:
            raise UsageError(f"set {api_key_env}: it holds the key of {model}")
        self.model = model
        self.api_base = api_base
        self._concurrency = concurrency
        given = {"api_base": api_base, "api_key": key}
        self._options = {name: value for name, value in given.items() if value is not None}

    def ask(self, questions: Sequence[tuple[Messages, dict[str, Any]]]) -> list[str | None]:
        """Answers of n questions, in their order; None where none came.

        Ctrl+C ends it at once: a question that hangs is left behind, and keeps no process alive.

        Args:
            questions: chat messages and further options of each (``temperature``, ``seed``).
        """
        os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # else a download at import
        import litellm

        workers = Workers(self._concurrency, name="rwml-asker")
        return results(
            [workers.submit(self._one, litellm.completion, question) for question in questions]
        )

    def _one(self, complete: Complete, question: tuple[Messages, dict[str, Any]]) -> str | None:
        messages, options = question
        try:
            answer = complete(
                model=self.model,
                messages=list(messages),
                num_retries=RETRIES,
                timeout=TIMEOUT_S,
                **self._options,
                **options,
            )
            return answer.choices[0].message.content or ""
        except Exception as error:  # noqa: BLE001 - providers raise what they like; it is logged
            _LOG.warning("%s did not answer: %s", self.model, type(error).__name__)
            return None


def answered(answers: Iterable[str | None]) -> int:
    """How many answers came."""
    return sum(answer is not None for answer in answers)
