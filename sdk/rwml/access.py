"""The writer's way to the store, which may be locked, slow, silent or gone.

No call through here takes longer than some seconds, and while the store is away none is made at
all: the writer has to go on. A server that is silent (its process was stopped, say) still
acknowledges packets, so no limit of the network ends a call to it; such calls are made in a thread
of their own, which is left behind until they end. What was given up may still happen: writes are
idempotent.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, TypeVar

from rwml.errors import StoreUnavailableError
from rwml.schema import Trajectory
from rwml.store import Store
from rwml.store.batches import Batch
from rwml.store.lookups import Pending

PATIENCE_S = 2.0
"""How long a write waits for other writers before the store counts as away (ours)."""
PROBE_S = 0.2
"""The same, while it is away (ours)."""
STALL_S = 3.0
"""How long a server may be silent before it counts as away: more than it waits for locks (ours)."""
RETRY_S = (0.25, 5.0)
"""First and longest pause between two attempts while the store is away (ours)."""

_Result = TypeVar("_Result")


class StoreAccess:
    """What the writer asks of the store. Only for the writer's thread.

    All methods that reach the store raise `StoreUnavailableError` at once while it is away, and
    when it turns out to be.

    Args:
        store: a SQLite file is asked in the caller's thread, as its own limits end every call.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        is_file = store.parsed_url.get_backend_name() == "sqlite"
        self._line = None if is_file else _Line()
        self._pause_s = 0.0
        self._next_try = 0.0

    @property
    def is_away(self) -> bool:
        """Whether it is too early to ask again."""
        return bool(self._pause_s) and time.monotonic() < self._next_try

    @property
    def wait_s(self) -> float:
        """Seconds until it may be asked again."""
        return max(0.0, self._next_try - time.monotonic())

    def pause(self) -> None:
        """Counts the store, or what stands in for it, as away for a while, each time for longer."""
        first, longest = RETRY_S
        self._pause_s = min(longest, 2 * self._pause_s) or first
        self._next_try = time.monotonic() + self._pause_s

    def write(self, batch: Batch, *, is_late: bool = False) -> None:
        """Writes a batch; see `Store.write_batch` for the arguments and errors."""
        patience_s = self._patience_s
        self._ask(lambda: self._store.write_batch(batch, patience_s=patience_s, is_late=is_late))
        self._pause_s = 0.0  # only a write tells: a locked file can be read

    def claim_pending(self, digest: bytes | None, tail: bytes | None) -> Pending | None:
        """See `Store.claim_pending`."""
        patience_s = self._patience_s
        return self._ask(lambda: self._store.claim_pending(digest, tail, patience_s=patience_s))

    def header(self, key: str) -> Trajectory | None:
        """See `Store.header`."""
        return self._ask(lambda: self._store.header(key))

    def pseudonyms(self, key: str) -> dict[bytes, str]:
        """See `Store.pseudonyms`."""
        return self._ask(lambda: self._store.pseudonyms(key))

    @property
    def _patience_s(self) -> float:
        return PROBE_S if self._pause_s else PATIENCE_S

    def _ask(self, call: Callable[[], _Result]) -> _Result:
        if self.is_away:
            raise StoreUnavailableError(f"{self._store.url} is away")
        try:
            if self._line is None:
                return call()
            return self._line.call(call, timeout_s=STALL_S, who=self._store.url)
        except StoreUnavailableError:
            self.pause()
            raise


class _Line:
    """A thread in which one call at a time is made; one that takes too long keeps it busy."""

    def __init__(self) -> None:
        self._calls: SimpleQueue[tuple[Callable[[], Any], _Answer]] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._last: _Answer | None = None

    def call(self, function: Callable[[], _Result], *, timeout_s: float, who: str) -> _Result:
        """Calls a function, and returns or raises what it does.

        Raises:
            StoreUnavailableError: it takes longer, or an earlier call still does.
        """
        silent = StoreUnavailableError(f"{who} has been silent for {timeout_s:.0f} s or more")
        if self._last is not None and not self._last.is_there.is_set():
            raise silent
        if self._thread is None:
            # A daemon: what is left behind must not keep the program from ending.
            self._thread = threading.Thread(target=self._run, name="rwml-store", daemon=True)
            self._thread.start()
        answer = self._last = _Answer()
        self._calls.put((function, answer))
        if not answer.is_there.wait(timeout_s):
            raise silent
        self._last = None
        if answer.error is not None:
            raise answer.error
        return answer.result

    def _run(self) -> None:
        while True:
            function, answer = self._calls.get()
            try:
                answer.result = function()
            except BaseException as error:  # noqa: BLE001 - raised where it was called
                answer.error = error
            answer.is_there.set()
            del function, answer  # a batch may be large


class _Answer:
    """What became of a call."""

    def __init__(self) -> None:
        self.is_there = threading.Event()
        self.result: Any = None
        self.error: BaseException | None = None
