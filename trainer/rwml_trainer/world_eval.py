"""Scores next-state predictions of held-out rows: reward, skill, gap, format, by kind and by tool.

A reward alone says little: always answering a tool's most common next state scores well. So each
predictor is shown beside the trivial ones, and *skill* is what it adds to the best of them.
Differences are paired by row, seeds are averaged within a row, and intervals are clustered by task
(statistics: `rwml.statistics`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple

from pydantic import JsonValue

from rwml.encoders import gaps
from rwml.errors import RewardError
from rwml.prompts import parse_prediction
from rwml.statistics import clustered_bootstrap, mean_and_deviation, quantile, verdict
from rwml_trainer.dataset import Row
from rwml_trainer.dataset.splitting import hash_share
from rwml_trainer.rewards import NextStateReward

GAP_QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9)

_GROUPINGS: tuple[tuple[str, Literal["kind", "tool"]], ...] = (
    ("by_kind", "kind"),
    ("by_tool", "tool"),
)


class Answer(NamedTuple):
    """A scored completion.

    Attributes:
        completion: as the predictor wrote it.
        prediction: the predicted next state; None where the format was wrong.
        reward: in [0, 1].
        gap: sim-to-real gap; None where the format was wrong.
        exact: the prediction is the next state, to the letter.
    """

    completion: str
    prediction: str | None
    reward: float
    gap: float | None
    exact: bool


@dataclass(frozen=True)
class Scored:
    """A predictor's answers on held-out rows.

    Attributes:
        name: of the predictor.
        rows: the n rows.
        answers: of each row, one per seed; as many each.
    """

    name: str
    rows: Sequence[Row]
    answers: Sequence[Sequence[Answer]]

    @cached_property
    def rewards(self) -> list[float]:
        """Of each row the mean over its seeds."""
        return [_mean([answer.reward for answer in answers]) for answers in self.answers]

    @cached_property
    def rewards_by_seed(self) -> list[float]:
        """Mean reward over the rows, of each seed."""
        return [
            _mean([answer.reward for answer in column])
            for column in zip(*self.answers, strict=True)
        ]


def pick_rows(rows: Sequence[Row], limit: int) -> list[Row]:
    """At most `limit` rows, the same ones every time, spread over tasks by a hash of their ids."""
    chosen = sorted(rows, key=lambda row: hash_share(row["id"]))[:limit]
    return sorted(chosen, key=lambda row: row["id"])


def score(
    name: str,
    rows: Sequence[Row],
    completions: Sequence[Sequence[str]],
    reward: NextStateReward,
) -> Scored:
    """Scores a predictor's completions against what really happened.

    Args:
        name: of the predictor.
        rows: the n rows.
        completions: of each row, one per seed; as many each.
        reward: scores them.

    Raises:
        RewardError: a row has no next state that can be scored.
    """
    owners = [row for row, texts in zip(rows, completions, strict=True) for _ in texts]
    flat = [text for texts in completions for text in texts]
    targets = [row["next_state"].strip() for row in owners]
    rewards = reward(completions=flat, next_state=targets, kind=[row["kind"] for row in owners])
    states = [parse_prediction(completion).next_state for completion in flat]
    formed = [place for place, state in enumerate(states) if state is not None]
    distances = gaps(
        reward.embedding.encoder,
        [states[place] or "" for place in formed],
        [targets[place] for place in formed],
    )
    gap_of: dict[int, float] = dict(zip(formed, distances, strict=True))
    answers = []
    for place, value in enumerate(rewards):
        if value is None:
            raise RewardError(f"row {owners[place]['id']} cannot be scored: rebuild the dataset")
        state = states[place]
        answers.append(
            Answer(flat[place], state, value, gap_of.get(place), state == targets[place])
        )
    each = iter(answers)
    return Scored(name, rows, [[next(each) for _ in texts] for texts in completions])


def summarise(scored: Scored, trivial: Sequence[Scored], *, seed: int) -> dict[str, JsonValue]:
    """A predictor's figures, overall and by kind and tool.

    ``floor`` names the best trivial predictor on these rows, and its reward; ``skill`` is
    ``(reward - floor) / (1 - floor)``: 0 is that predictor, 1 is perfect; None where it is already
    perfect. ``reward_by_seed`` and ``reward_deviation`` (None for one seed) are over the seeds,
    ``reward_ci95`` is over tasks.
    """
    everything = range(len(scored.rows))
    interval = clustered_bootstrap(scored.rewards, clusters(scored.rows), seed=seed)
    summary = _figures(scored, trivial, everything)
    summary["reward_ci95"] = [interval.low, interval.high]
    summary["reward_by_seed"] = list[JsonValue](scored.rewards_by_seed)
    summary["reward_deviation"] = mean_and_deviation(scored.rewards_by_seed)[1]
    for name, key in _GROUPINGS:
        summary[name] = {
            value: _figures(scored, trivial, places)
            for value, places in _groups(scored.rows, key).items()
        }
    return summary


def best_trivial(trivial: Sequence[Scored]) -> Scored:
    """The trivial predictor with the highest reward; the first of equals."""
    return max(trivial, key=lambda scored: _mean(scored.rewards))


def compare(better: Scored, baseline: Scored, *, seed: int) -> dict[str, JsonValue]:
    """Paired difference ``better - baseline`` with its interval and the word it has earned.

    Over all rows, and by kind: kinds have rewards of their own.
    """
    differences = [a - b for a, b in zip(better.rewards, baseline.rewards, strict=True)]
    tasks = clusters(better.rows)

    def of(places: Sequence[int]) -> dict[str, JsonValue]:
        interval = clustered_bootstrap(
            [differences[place] for place in places], [tasks[place] for place in places], seed=seed
        )
        return {
            "difference": interval.mean,
            "ci95": [interval.low, interval.high],
            "verdict": verdict(interval),
        }

    return {
        "compared": [better.name, baseline.name],
        **of(range(len(differences))),
        "by_kind": {kind: of(places) for kind, places in _groups(better.rows, "kind").items()},
    }


def describe(comparison: Mapping[str, Any]) -> str:
    """What `compare` found, as a line for people."""
    after, before = comparison["compared"]
    low, high = comparison["ci95"]
    return (
        f"{after} minus {before}: {comparison['difference']:+.3f}, 95% interval {low:+.3f} to "
        f"{high:+.3f}: {comparison['verdict']}"
    )


def clusters(rows: Sequence[Row]) -> list[str]:
    """The independent unit of each row: its task, else its trajectory."""
    return [f"{row['source']}/{row['task_id'] or row['id'].rsplit('/', 2)[0]}" for row in rows]


def _figures(
    scored: Scored, trivial: Sequence[Scored], places: Sequence[int]
) -> dict[str, JsonValue]:
    reward = _mean([scored.rewards[place] for place in places])
    floors = {each.name: _mean([each.rewards[place] for place in places]) for each in trivial}
    best = max(floors, key=lambda name: floors[name])
    floor = floors[best]
    answers = [answer for place in places for answer in scored.answers[place]]
    known = sorted(answer.gap for answer in answers if answer.gap is not None)
    quantiles: dict[str, JsonValue] = {
        f"p{round(100 * share)}": quantile(known, share) if known else None
        for share in GAP_QUANTILES
    }
    return {
        "rows": len(places),
        "reward": reward,
        "floor": {"predictor": best, "reward": floor},
        "skill": (reward - floor) / (1 - floor) if floor < 1 else None,
        "format_rate": len(known) / len(answers),
        "exact": _mean([float(answer.exact) for answer in answers]),
        "gap_quantiles": quantiles,
    }


def _groups(rows: Sequence[Row], key: Literal["kind", "tool"]) -> dict[str, list[int]]:
    """Places of the rows of each kind or tool; a row of none or several tools is in no group."""
    groups: dict[str, list[int]] = {}
    for place, row in enumerate(rows):
        value = row[key]
        if value is not None:
            groups.setdefault(value, []).append(place)
    return dict(sorted(groups.items()))


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)
