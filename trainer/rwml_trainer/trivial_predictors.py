"""Predictors that have learned nothing about the action: what a world model must beat (ours)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from rwml.prompts import format_label, last_state
from rwml_trainer.dataset import Manifest, Row

TRIVIAL = ("constant", "copy_last")
"""Their names; of equally good ones the first counts as the best."""


class ConstantPredictor:
    """Answers every row with the most common next state of its kind and tool in training."""

    def __init__(self, train: Sequence[Row]) -> None:
        by_tool: dict[tuple[str, str | None], Counter[str]] = {}
        by_kind: dict[str, Counter[str]] = {}
        for row in train:
            target = row["next_state"]
            by_tool.setdefault((row["kind"], row["tool"]), Counter())[target] += 1
            by_kind.setdefault(row["kind"], Counter())[target] += 1
        self._by_tool = {key: _most_common(counts) for key, counts in by_tool.items()}
        self._by_kind = {key: _most_common(counts) for key, counts in by_kind.items()}

    def predict(self, rows: Sequence[Row]) -> list[str]:
        """Returns n completions in the tag format; empty for a kind never seen in training."""
        answers = [
            self._by_tool.get((row["kind"], row["tool"])) or self._by_kind.get(row["kind"])
            for row in rows
        ]
        return [format_label(answer) if answer else "" for answer in answers]


class CopyPredictor:
    """Answers every row with its current state: what the prompt shows as observed last.

    Args:
        manifest: of the dataset; results of tools are masked where its next states are.
    """

    def __init__(self, manifest: Manifest) -> None:
        self._templates = manifest.templates
        self._masked = manifest.recipe.mask_tools

    def predict(self, rows: Sequence[Row]) -> list[str]:
        """Returns n completions in the tag format; empty where a prompt shows no state."""
        states = [
            last_state(
                row["prompt"], kind=row["kind"], templates=self._templates, masked=self._masked
            )
            for row in rows
        ]
        return [format_label(state) if state else "" for state in states]


def _most_common(counts: Counter[str]) -> str:
    return min(counts.items(), key=lambda item: (-item[1], item[0]))[0]
