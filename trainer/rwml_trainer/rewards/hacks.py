"""Finds out when a model games its reward, and stops the training (ours).

Four signs, each a figure of every step: predictions copy what the prompt shows last, say what is
common elsewhere, are one text for many prompts, or drift in length. A prediction that is right is
never a sign.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Sequence
from typing import Any

from rwml.errors import RewardHackError
from rwml.prompts import parse_prediction
from rwml_trainer.recipes import GuardRecipe
from rwml_trainer.rewards.scoring import Completion, completion_text

MIN_COPY_CHARS = 12
"""Shorter predictions stand in many prompts by chance."""
MIN_PROMPTS = 4
"""Of so many different prompts one text is looked for."""
COMMON = 3
"""So many of the commonest next states count as generic."""
MAX_STATES = 10_000
"""Different next states that are counted."""

_ADVICE = {
    "copies": "copy the last message of their prompt",
    "generic": "are next states that are common elsewhere",
    "one_text": "are one text for many prompts",
    "length_ratio": "differ in length from the real next states",
}


class HackDetectors:
    """Watches the completions of a training, step by step."""

    def __init__(self, guards: GuardRecipe) -> None:
        self._guards = guards
        self._windows: dict[str, deque[float]] = {
            name: deque(maxlen=guards.window) for name in _ADVICE
        }
        self._recent: deque[dict[str, set[str]]] = deque(maxlen=guards.window)
        self._states: Counter[str] = Counter()

    def observe(
        self,
        *,
        prompts: Sequence[Any] | None,
        completions: Sequence[Completion],
        next_state: Sequence[str | None],
    ) -> dict[str, float]:
        """Figures of a step; those of which nothing was seen are left out.

        Raises:
            RewardHackError: the mean of a figure over the window is above its threshold.
        """
        shown = [_last_message(prompt) for prompt in prompts or [None] * len(completions)]
        rows = [
            (prompt, prediction, target.strip())
            for prompt, completion, target in zip(shown, completions, next_state, strict=True)
            if target
            and (prediction := parse_prediction(completion_text(completion)).next_state) is not None
        ]
        figures = self._figures(rows)
        self._count(target for *_, target in rows)
        for name, value in figures.items():
            self._windows[name].append(value)
        self._check()
        return figures

    def _figures(self, rows: Sequence[tuple[str, str, str]]) -> dict[str, float]:
        if not rows:
            return {}
        wrong = [(prompt, said) for prompt, said, target in rows if said != target]
        copies = sum(len(said) >= MIN_COPY_CHARS and said in prompt for prompt, said in wrong)
        figures = {"copies": copies / len(rows)}
        if len(self._states) > COMMON:
            common = {text for text, _ in self._states.most_common(COMMON)}
            figures["generic"] = sum(said in common for _, said in wrong) / len(rows)
        said_by_prompt: dict[str, set[str]] = {prompt: set() for prompt, *_ in rows}
        for prompt, said in wrong:
            said_by_prompt[prompt].add(said)
        self._recent.append(said_by_prompt)
        one_text = self._one_text()
        if one_text is not None:
            figures["one_text"] = one_text
        said_chars = sum(len(said) for _, said, _ in rows)
        true_chars = sum(len(target) for *_, target in rows)
        ratio = said_chars / true_chars if true_chars else 1.0
        figures["length_ratio"] = max(ratio, 1 / ratio)
        return figures

    def _one_text(self) -> float | None:
        said_by_prompt: dict[str, set[str]] = {}
        for step in self._recent:
            for prompt, said in step.items():
                said_by_prompt.setdefault(prompt, set()).update(said)
        if len(said_by_prompt) < MIN_PROMPTS:
            return None
        counts = Counter(text for said in said_by_prompt.values() for text in said)
        return max(counts.values(), default=0) / len(said_by_prompt)

    def _count(self, targets: Iterable[str]) -> None:
        for target in targets:
            if target in self._states or len(self._states) < MAX_STATES:
                self._states[target] += 1

    def _check(self) -> None:
        for name, window in self._windows.items():
            limit = getattr(self._guards, name)
            if limit is None or len(window) < self._guards.window:
                continue
            mean = sum(window) / len(window)
            if mean > limit:
                raise RewardHackError(
                    f"training is stopped: over {len(window)} steps the predictions "
                    f"{_ADVICE[name]} ({name} {mean:.2f}, limit {limit}); lower reward.tau_d, "
                    f"filter easy samples, or change guards.{name}"
                )


def _last_message(prompt: Any) -> str:
    if isinstance(prompt, str):
        return prompt
    return str(prompt[-1].get("content") or "") if prompt else ""
