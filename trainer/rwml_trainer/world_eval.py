"""Evaluates next-state prediction on held-out rows: reward, skill, gap, format, by kind and tool.

A reward alone says little: always answering a tool's most common next state scores well. So each
predictor is shown beside that constant predictor, and *skill* is what it adds to it. Differences
are paired by row and their interval is clustered by task (statistics: `rwml.statistics`).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import JsonValue

from rwml.encoders import gaps
from rwml.errors import RewardError
from rwml.prompts import format_label, parse_prediction
from rwml.statistics import Interval, clustered_bootstrap, quantile, verdict
from rwml_trainer.dataset import Row
from rwml_trainer.dataset.splitting import hash_share
from rwml_trainer.rewards import NextStateReward

GAP_QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9)


_GROUPINGS: tuple[tuple[str, Literal["kind", "tool"]], ...] = (
    ("by_kind", "kind"),
    ("by_tool", "tool"),
)


@dataclass(frozen=True)
class Scored:
    """A predictor's answers on held-out rows.

    Attributes:
        name: of the predictor.
        rows: the n rows.
        rewards: n rewards in [0, 1].
        gaps: n sim-to-real gaps; None where the format was wrong.
        exact: n flags: the prediction is the next state, to the letter.
    """

    name: str
    rows: Sequence[Row]
    rewards: list[float]
    gaps: list[float | None]
    exact: list[bool]


def pick_rows(rows: Sequence[Row], limit: int) -> list[Row]:
    """At most `limit` rows, the same ones every time, spread over tasks by a hash of their ids."""
    chosen = sorted(rows, key=lambda row: hash_share(row["id"]))[:limit]
    return sorted(chosen, key=lambda row: row["id"])


class ConstantPredictor:
    """Answers every row with the most common next state of its kind and tool in training (ours).

    It is the floor: it has learned nothing about the action.
    """

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


def score(
    name: str, rows: Sequence[Row], completions: Sequence[str], reward: NextStateReward
) -> Scored:
    """Scores a predictor's completions against what really happened.

    Raises:
        RewardError: a row has no next state that can be scored.
    """
    targets = [row["next_state"].strip() for row in rows]
    rewards = reward(
        completions=list(completions), next_state=targets, kind=[row["kind"] for row in rows]
    )
    scorable = [value for value in rewards if value is not None]
    if len(scorable) < len(rows):
        lost = rows[rewards.index(None)]["id"]
        raise RewardError(f"row {lost} cannot be scored: rebuild the dataset")
    states = [parse_prediction(completion).next_state for completion in completions]
    formed = [place for place, state in enumerate(states) if state is not None]
    distances = gaps(
        reward.embedding.encoder,
        [states[place] or "" for place in formed],
        [targets[place] for place in formed],
    )
    gap_of: dict[int, float] = dict(zip(formed, distances, strict=True))
    return Scored(
        name=name,
        rows=rows,
        rewards=scorable,
        gaps=[gap_of.get(place) for place in range(len(rows))],
        exact=[state == target for state, target in zip(states, targets, strict=True)],
    )


def summarise(scored: Scored, constant: Scored, *, seed: int) -> dict[str, JsonValue]:
    """A predictor's figures, overall and by kind and tool.

    ``skill`` is ``(reward - constant) / (1 - constant)``: 0 is the constant predictor, 1 is
    perfect; None where the constant predictor is already perfect.
    """
    everything = list(range(len(scored.rows)))
    interval = clustered_bootstrap(scored.rewards, clusters(scored.rows), seed=seed)
    summary = _figures(scored, constant, everything)
    summary["reward_ci95"] = [interval.low, interval.high]
    for name, key in _GROUPINGS:
        groups: dict[str, list[int]] = {}
        for place, row in enumerate(scored.rows):
            value = row[key]
            if value is not None:
                groups.setdefault(value, []).append(place)
        summary[name] = {
            value: _figures(scored, constant, places) for value, places in sorted(groups.items())
        }
    return summary


def compare(better: Scored, baseline: Scored, *, seed: int) -> dict[str, JsonValue]:
    """Paired difference ``better - baseline`` with its interval, and the word it has earned."""
    differences = [a - b for a, b in zip(better.rewards, baseline.rewards, strict=True)]
    interval: Interval = clustered_bootstrap(differences, clusters(better.rows), seed=seed)
    return {
        "compared": [better.name, baseline.name],
        "difference": interval.mean,
        "ci95": [interval.low, interval.high],
        "verdict": verdict(interval),
    }


def _figures(scored: Scored, constant: Scored, places: Sequence[int]) -> dict[str, JsonValue]:
    reward = _mean([scored.rewards[place] for place in places])
    floor = _mean([constant.rewards[place] for place in places])
    known = sorted(gap for place in places if (gap := scored.gaps[place]) is not None)
    quantiles: dict[str, JsonValue] = {
        f"p{round(100 * share)}": quantile(known, share) if known else None
        for share in GAP_QUANTILES
    }
    return {
        "rows": len(places),
        "reward": reward,
        "skill": (reward - floor) / (1 - floor) if floor < 1 else None,
        "format_rate": len(known) / len(places),
        "exact": _mean([float(scored.exact[place]) for place in places]),
        "gap_quantiles": quantiles,
    }


def clusters(rows: Sequence[Row]) -> list[str]:
    """The independent unit of each row: its task, else its trajectory."""
    return [f"{row['source']}/{row['task_id'] or row['id'].rsplit('/', 2)[0]}" for row in rows]


def _most_common(counts: Counter[str]) -> str:
    return min(counts.items(), key=lambda item: (-item[1], item[0]))[0]


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)
