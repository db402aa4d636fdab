"""The LiteLLM callback: every finished chat completion goes to the assembler, in any thread.

LiteLLM calls it in a worker thread or task after the caller has its answer. A call that another
recorder of this process sees further out (ChatLiteLLM inside LangChain) is left to that one.
Source: LiteLLM's `CustomLogger`.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Mapping
from datetime import datetime
from importlib.metadata import version
from typing import Any

import litellm
from litellm.integrations.custom_logger import CustomLogger

import rwml
from rwml.assemble import Assembler, AssemblyStats, Completion
from rwml.schema import Fingerprint
from rwml_adapters.litellm.reading import to_completions

SOURCE = "litellm"
_KEY_BYTES = 32
_CALLBACK_LISTS = (
    "callbacks",
    "input_callback",
    "success_callback",
    "failure_callback",
    "_async_input_callback",
    "_async_success_callback",
    "_async_failure_callback",
)
"""Where LiteLLM keeps a custom logger, once a call was made."""


def switch_on(recorder: rwml.Recorder) -> Callable[[], None]:
    """Adds a logger to LiteLLM's callbacks; returns a function that takes it out again."""
    logger = RWMLLogger(recorder)
    litellm.callbacks.append(logger)

    def undo() -> None:
        logger.stop()
        for name in _CALLBACK_LISTS:
            callbacks = getattr(litellm, name, None)
            if isinstance(callbacks, list):
                callbacks[:] = [callback for callback in callbacks if callback is not logger]

    return undo


class RWMLLogger(CustomLogger):
    """Records LiteLLM's chat completions: ``litellm.callbacks = [RWMLLogger(recorder)]``.

    Synchronous, asynchronous and streamed calls; of a failed call only what its request says came
    back. Retries are one step. A conversation is told by its history; ``litellm_session_id`` (or
    ``metadata={"session_id": ...}``) keeps conversations apart that begin alike.

    Args:
        recorder: where the trajectories go.
        key: secret of 1 to 64 bytes, from which the ids of the trajectories are made; None for a
            new random one, so that other processes give other ids.

    Raises:
        UsageError: the key has another length.
    """

    def __init__(self, recorder: rwml.Recorder, *, key: bytes | None = None) -> None:
        super().__init__()
        self._recorder = recorder
        self._lock = threading.Lock()
        self._stopped = False
        self._assembler = Assembler(
            key=secrets.token_bytes(_KEY_BYTES) if key is None else key,
            source=SOURCE,
            fingerprint=Fingerprint(package="litellm", version=version("litellm")),
        )

    @property
    def stats(self) -> AssemblyStats:
        """What became of the completions so far."""
        with self._lock:
            return self._assembler.stats

    def stop(self) -> None:
        """Records nothing from now on, calls in flight neither."""
        self._stopped = True

    def log_success_event(
        self, kwargs: Any, response_obj: Any, start_time: Any, end_time: Any
    ) -> None:
        """A synchronous call ended; a streamed one with its whole response."""
        self._take(kwargs, response_obj, start_time, end_time)

    async def async_log_success_event(
        self, kwargs: Any, response_obj: Any, start_time: Any, end_time: Any
    ) -> None:
        """An asynchronous call ended; a streamed one with its whole response."""
        self._take(kwargs, response_obj, start_time, end_time)

    def log_failure_event(
        self, kwargs: Any, response_obj: Any, start_time: Any, end_time: Any
    ) -> None:
        """A synchronous call failed."""
        self._take(kwargs, None, start_time, end_time)

    async def async_log_failure_event(
        self, kwargs: Any, response_obj: Any, start_time: Any, end_time: Any
    ) -> None:
        """An asynchronous call failed."""
        self._take(kwargs, None, start_time, end_time)

    def _take(
        self, kwargs: Mapping[str, Any], response: Any, start_time: datetime, end_time: datetime
    ) -> None:
        with self._recorder.guard():
            if self._stopped:
                return
            for completion in to_completions(kwargs, response, start_time, end_time):
                self._write(completion)

    def _write(self, completion: Completion) -> None:
        started_at = completion.started_at
        if started_at is not None and self._recorder.outer_calls.covers(
            completion.messages, started=started_at.timestamp()
        ):
            return
        with self._lock:  # records leave in the order in which they were made
            for record in self._assembler.add(completion):
                if isinstance(record, rwml.Trajectory):
                    self._recorder.record_header(record)
                else:
                    self._recorder.record_step(*record)
