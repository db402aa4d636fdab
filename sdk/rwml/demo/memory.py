"""Watches the memory of this process and all its children while a block runs."""

from __future__ import annotations

import threading
from typing import Any

from rwml.extras import require

SAMPLE_S = 0.25
"""Seconds between two looks (ours)."""


class PeakMemory:
    """Context manager whose `mib` is the highest resident memory of the process tree, in MiB.

    Pages that processes share are counted in each, so the figure is an upper bound.
    """

    def __init__(self) -> None:
        require("demo", "psutil")
        import psutil

        self.mib = 0
        self._process = psutil.Process()
        self._errors = psutil.Error
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="rwml-memory", daemon=True)

    def __enter__(self) -> PeakMemory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(SAMPLE_S):
            children = self._process.children(recursive=True)
            total = sum(self._resident(process) for process in [self._process, *children])
            self.mib = max(self.mib, total // 2**20)

    def _resident(self, process: Any) -> int:
        try:
            return int(process.memory_info().rss)
        except self._errors:  # it ended between the listing and the look
            return 0
