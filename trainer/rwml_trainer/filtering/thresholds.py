"""Thresholds of the gap from what a filter model got right (RWML sec. 2.2, app. B.1, C.1).

A sample is easy at ``tau_d`` when more than ``tau_easy`` of its K predictions come nearer than
that, so each sample has one *critical gap* above which it is easy. Pure numbers, no models.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from decimal import Decimal

from rwml_trainer.rewards import round_ties_up

GRID = 0.01
"""Step in which thresholds are looked for (ours)."""
LARGEST = 1.0
"""No threshold is looked for above it: it would call unrelated texts equal (ours)."""
LENIENT = 0.5
"""Above it a training threshold is too lenient (app. B.1)."""
STRICT = 0.1
"""Below it a training threshold comes near exact match (app. B.1)."""


def critical_gap(gaps: Sequence[float], *, tau_easy: float) -> float:
    """The gap above which a sample is easy.

    Args:
        gaps: of its K predictions; infinite where one had no next state.
        tau_easy: share of predictions that must be right for a sample to be easy.
    """
    needed = int(Decimal(str(tau_easy)) * len(gaps)) + 1
    return sorted(gaps)[needed - 1] if needed <= len(gaps) else math.inf


def easy_share(criticals: Sequence[float], tau_d: float) -> float:
    """Share of samples that are easy at a threshold."""
    return sum(critical < tau_d for critical in criticals) / len(criticals)


def choose_tau_d(criticals: Sequence[float], *, wanted: float) -> float:
    """The threshold at which nearest to `wanted` of the samples are easy; the smaller of two.

    Args:
        criticals: one critical gap per sample; at least one.
        wanted: share of easy samples (app. B.1: about 0.3).
    """
    return min(grid(), key=lambda tau_d: (abs(easy_share(criticals, tau_d) - wanted), tau_d))


def training_tau_d(tau_d: float) -> float:
    """The paper's rule: 0.15 more, to the nearest 0.2, ties up (0.1 -> 0.2, 0.15 -> 0.4)."""
    return round_ties_up(tau_d + 0.15, 0.2)


def grid() -> list[float]:
    """Thresholds that are looked at."""
    return [round(number * GRID, 2) for number in range(1, round(LARGEST / GRID) + 1)]
