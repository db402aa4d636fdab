"""Starts engines and waits for them in threads, so that one can be restarted while another loads.

An engine dies with the thread that started it (`rwml.launcher`), so these threads live as long as
the `Starter`; and with it end all engines that it started.
"""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from rwml.errors import ServingError
from rwml.workers import Workers
from rwml_trainer.serving import canary
from rwml_trainer.serving.canary import Findings
from rwml_trainer.serving.engine import Engine, StartEngine
from rwml_trainer.serving.folders import check_model_folder
from rwml_trainer.serving.process import ServerProcess, stop_all
from rwml_trainer.serving.registry import Version, check_unchanged

ENGINE_GRACE_S = 5.0
"""An engine is asked to end when nothing is in flight any more."""
RESTARTS = 5
"""Attempts to bring back a crashed engine of ours (ours); then the server gives up and says so."""
LONGEST_PAUSE_S = 30.0
AT_ONCE = 16
"""Engines that are waited for at once, at most (ours)."""


class Started(NamedTuple):
    """An engine that is up, and what its check found."""

    engine: Engine
    findings: Findings


@dataclass
class Running:
    """An engine and the version that it runs."""

    version: Version
    engine: Engine
    findings: Findings | None = None
    state: Literal["ready", "down", "leaving"] = "ready"
    leaving_since: float = 0.0


class Starter:
    """Starts engines; all of them end with it.

    Args:
        folder: receives a folder for each version, for what its engine writes.
        start_engine: starts one.
        timeout_s: seconds that an engine has to come up.
    """

    def __init__(self, folder: Path, *, start_engine: StartEngine, timeout_s: float) -> None:
        self._folder = folder
        self._start_engine = start_engine
        self._timeout_s = timeout_s
        self._workers = Workers(AT_ONCE, name="rwml-engine-start")
        self._lock = threading.Lock()
        self._is_closing = threading.Event()
        self._processes: list[ServerProcess] = []
        self._over: dict[Future[Started], threading.Event] = {}

    def launch(self, version: Version) -> Engine:
        """Starts an engine, which loads while this returns; from a thread that lives on.

        Raises:
            ModelError: the weights are not those that were added, or the folder is unsafe.
            ServingError: this was closed.
        """
        check_unchanged(version)
        check_model_folder(Path(version.folder))
        return self._begin(version)

    def _begin(self, version: Version) -> Engine:
        self._check_open(version)
        engine = self._start_engine(version, self._folder / version.id)
        with self._lock:
            known = [process for process in self._processes if not process.is_stopped]
            self._processes = [*known, engine.process]
        try:
            self._check_open(version)  # else whoever closed this may not have seen it
        except ServingError:
            engine.process.stop(ENGINE_GRACE_S)
            raise
        return engine

    def start(self, version: Version) -> Future[Started]:
        """Starts an engine and checks it; none is left where that fails."""
        return self._workers.submit(self._start, version)

    def restart(self, version: Version, *, is_elsewhere: bool = False) -> Future[Started]:
        """The same for one that crashed: tries again, with pauses that grow, where it fails.

        Args:
            version: of the engine.
            is_elsewhere: somebody else starts the engine, whenever that may be: tries until
                `give_up`. Nothing of the version's folder goes there, so it is not read.
        """
        import tenacity

        is_over = threading.Event()
        attempts = tenacity.Retrying(
            stop=tenacity.stop_any(
                tenacity.stop_never if is_elsewhere else tenacity.stop_after_attempt(RESTARTS),
                tenacity.stop_when_event_set(is_over),
                tenacity.stop_when_event_set(self._is_closing),
            ),
            wait=tenacity.wait_exponential(max=LONGEST_PAUSE_S),
            sleep=tenacity.sleep_using_event(is_over),
            retry=tenacity.retry_if_exception_type(ServingError),
            reraise=True,
        )
        restart = self._workers.submit(attempts, self._start, version, is_elsewhere)
        with self._lock:
            self._over = {each: over for each, over in self._over.items() if not each.done()}
            self._over[restart] = is_over
        return restart

    def give_up(self, restart: Future[Started]) -> None:
        """Has a restart try no more: what it does at the moment tells what became of it."""
        with self._lock:
            is_over = self._over.get(restart)
        if is_over is not None:
            is_over.set()

    def close(self) -> None:
        """Stops all engines, side by side; also those that are being started."""
        with self._lock:
            self._is_closing.set()
            for is_over in self._over.values():
                is_over.set()
        stop_all(self._processes, ENGINE_GRACE_S)

    def _check_open(self, version: Version) -> None:
        if self._is_closing.is_set():
            raise ServingError(f"{version.id} is not started: the server ends")

    def _start(self, version: Version, is_elsewhere: bool = False) -> Started:
        engine = self._begin(version) if is_elsewhere else self.launch(version)
        try:
            engine.wait(time.monotonic() + self._timeout_s)
            return Started(engine, canary.check(engine, version))
        except BaseException:
            engine.process.stop(ENGINE_GRACE_S)
            raise
