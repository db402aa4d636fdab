"""A bounded cache of predictions that makes each one once, whoever asks at the same time."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from typing import NamedTuple

from rwml.world_model.predictions import Prediction


class _Entry(NamedTuple):
    future: Future[Prediction]
    began: float


class PredictionCache:
    """Predictions by key, the least recently used goes first; safe to use from several threads.

    Args:
        capacity: predictions that are kept; 0 keeps none.
        kept_s: how long a prediction is kept, from when it was asked for.
        clock: monotonic seconds.
    """

    def __init__(
        self, capacity: int, *, kept_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._capacity = capacity
        self._kept_s = kept_s
        self._clock = clock
        self._lock = threading.Lock()
        self._kept: OrderedDict[bytes, _Entry] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, key: bytes, make: Callable[[], Prediction]) -> Prediction:
        """The prediction of a key: known, being made in another thread, or made now.

        What `make` raises is raised to everybody who waits for it, and is not kept; nor is that an
        endpoint refused a prompt, which it may take when it is set up in another way.
        """
        if not self._capacity:
            return make()
        with self._lock:
            known = self._kept.get(key)
            if known is not None and self._clock() - known.began > self._kept_s:
                known = None
            entry = self._kept[key] = known or _Entry(Future(), self._clock())
            self._kept.move_to_end(key)
            while len(self._kept) > self._capacity:
                self._kept.popitem(last=False)
        if known is not None:
            return known.future.result()
        try:
            made = make()
        except BaseException as error:
            self._forget(key, entry)
            entry.future.set_exception(error)
            raise
        if made.problem == "refused":
            self._forget(key, entry)
        entry.future.set_result(made)
        return made

    def _forget(self, key: bytes, entry: _Entry) -> None:
        with self._lock:
            if self._kept.get(key) is entry:
                del self._kept[key]
