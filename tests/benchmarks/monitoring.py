"""Monitoring: recorded transitions scored at once and cached, against one call for each."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from tests.benchmarks.measure import Result, rates

import rwml
from rwml.prompts import format_label
from rwml.testing import BagOfWordsEncoder, OpenAIServer, make_trajectory

LATENCY_S = 0.02
"""Of the stub: a small model's short answer, or a short answer from far away."""
TASKS = 24
AGAIN = 3
"""How often the same traffic comes: customers ask for the same things in the same words."""


def monitor_rows_per_s_vs_naive() -> Result:
    """Transitions per second on traffic a third of which is new, behind a stub of 20 ms."""

    def answer(body: Mapping[str, Any]) -> str:
        time.sleep(LATENCY_S)
        return format_label("Error: order not found")

    rows = [
        transition
        for _ in range(AGAIN)
        for task in range(TASKS)
        for transition in make_trajectory(task).transitions(history=10)
    ]
    encoder = BagOfWordsEncoder()

    with OpenAIServer(answer=answer) as server:

        def score(batch: int, **how: Any) -> None:
            with rwml.WorldModel(server.url, model="stub", encoder=encoder, **how) as world:
                for first in range(0, len(rows), batch):
                    world.surprise_many(rows[first : first + batch])

        return rates(
            "monitor_rows_per_s_vs_naive",
            ours=lambda: score(256),
            baseline=lambda: score(1, concurrency=1, cached=0),
            units=len(rows),
            unit="transitions/s",
            rounds=3,
        )
