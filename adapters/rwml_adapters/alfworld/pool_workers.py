"""The worker processes of a pool: who has which environment, batches out, answers in.

A worker that died is replaced here; what its episodes become is the pool's to say.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

from rwml_adapters.alfworld.pool_process import WorkerDiedError, WorkerProcess

RESET_ATTEMPTS = 3
"""Tries per reset before its game counts as one that kills workers (ours)."""
WORKER_DIED = "worker_died"
"""Set in the info of an environment whose episode ended with its worker."""
_DIED = ("", {WORKER_DIED: True})


class PoolWorkers:
    """The workers of a pool.

    Args:
        count: how many.
        size: how many environments they have together.
        lose: told which places a worker had when it died.
        options: keyword arguments of each environment.
        timeouts_s: longest time for one reset, and for a worker's share of a step.
    """

    def __init__(
        self,
        *,
        count: int,
        size: int,
        lose: Callable[[Iterable[int]], None],
        options: dict[str, Any],
        timeouts_s: dict[str, float],
    ) -> None:
        self._size = size
        self._lose = lose
        self._options = options
        self._timeouts_s = timeouts_s
        self._workers = [WorkerProcess(options) for _ in range(count)]
        self._owner = os.getpid()

    @property
    def pids(self) -> list[int]:
        """Process ids."""
        return [worker.pid for worker in self._workers]

    def reset(self, payloads: dict[int, tuple[str, int]]) -> dict[int, Any]:
        """Resets places, one message each, so that a game that kills its worker is known by name.

        A worker that died once gets its resets one by one. What it had started is started again.

        Args:
            payloads: game and seed of each place.

        Returns:
            Observation and info of each place, or its error.
        """
        answers: dict[int, Any] = {}
        deaths: Counter[int] = Counter()
        careful: set[int] = set()
        while left := [place for place in payloads if place not in answers]:
            shares = self._shares(left)
            for number in careful & shares.keys():
                del shares[number][1:]
            for number, place in self._reset_round(shares, payloads, answers).items():
                careful.add(number)
                deaths[place] += 1
                if deaths[place] == RESET_ATTEMPTS:
                    answers[place] = _DIED
        return answers

    def step(self, commands: dict[int, str]) -> dict[int, Any]:
        """The answers to commands, or errors, of the places whose worker lives."""
        shares = self._shares(commands)
        sent = [
            number
            for number, share in shares.items()
            if self._send(number, "step", [{place: commands[place] for place in share}])
        ]
        answers: dict[int, Any] = {}
        for number in sent:
            answers.update(self._answer(number, "step") or {})
        return answers

    def close(self) -> None:
        """Ends the workers, unless this is a process that was forked from their owner."""
        if os.getpid() == self._owner:
            for worker in self._workers:
                worker.close()
            self._workers.clear()

    def _reset_round(
        self,
        shares: dict[int, list[int]],
        payloads: dict[int, tuple[str, int]],
        answers: dict[int, Any],
    ) -> dict[int, int]:
        """Adds to the answers; says which workers died, and at which place."""
        died: dict[int, int] = {}
        for number, share in shares.items():
            if not self._send(number, "reset", [{place: payloads[place]} for place in share]):
                died[number] = share[0]
        for number in shares.keys() - died.keys():
            for place in shares[number]:
                answer = self._answer(number, "reset")
                if answer is None:
                    died[number] = place
                    break
                answers.update(answer)
        for number, places in self._shares(list(answers)).items():
            for place in places:
                if number in died and answers[place] is not _DIED:
                    del answers[place]
        return died

    def _shares(self, places: Iterable[int]) -> dict[int, list[int]]:
        """Places by worker: neighbours go to different ones."""
        shares: dict[int, list[int]] = {}
        for place in places:
            shares.setdefault(place % len(self._workers), []).append(place)
        return shares

    def _send(self, number: int, operation: str, messages: list[dict[int, Any]]) -> bool:
        """Whether the worker took the messages; one that did not is replaced."""
        try:
            for message in messages:
                self._workers[number].ask(operation, message, timeout_s=self._timeouts_s[operation])
        except WorkerDiedError:
            self._replace(number)
            return False
        return True

    def _answer(self, number: int, operation: str) -> dict[int, Any] | None:
        """What a worker answers; None when it died, and was replaced."""
        try:
            return self._workers[number].answer(timeout_s=self._timeouts_s[operation])
        except WorkerDiedError:
            self._replace(number)
            return None

    def _replace(self, number: int) -> None:
        self._workers[number] = WorkerProcess(self._options)
        self._lose(self._shares(range(self._size)).get(number, ()))
