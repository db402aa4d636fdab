"""The logger for LiteLLM's proxy, made from the environment: one line in the proxy's config file.

``litellm_settings: {callbacks: [rwml_adapters.litellm.proxy_logger]}``, and ``RWML_STORE`` with the
store's URL. Each worker process of the proxy makes its own when it loads the config. Without a
store the proxy must not start: one that only looks as if it recorded would be worse.

uvicorn ends a process by the signal that it got, once it has shut down: no `atexit` function runs.
So from the signal on everything is written at once, while uvicorn waits for what is in flight.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import signal
import threading
from typing import Any

import rwml
from rwml.errors import StoreError, UsageError
from rwml.instrumentation import choose_settings
from rwml.settings import from_environment, is_disabled
from rwml.telemetry import observe
from rwml_adapters.litellm.logger import RWMLLogger

logger = logging.getLogger("rwml")

_ENDING = (signal.SIGTERM, signal.SIGINT)


@functools.cache
def make_proxy_logger() -> RWMLLogger:
    """The process's one logger for the proxy; loading the config again gives it again.

    Raises:
        UsageError: no store is named, it cannot be opened, or a variable cannot be read.
    """
    if is_disabled():
        logger.warning("rwml: RWML_DISABLED is set: the proxy's traffic is not recorded")
        return RWMLLogger(rwml.Recorder(store=""))
    settings = from_environment()
    if not settings.store:
        raise UsageError(
            "rwml has no store for the proxy's traffic: set RWML_STORE to its URL, such as "
            "sqlite:////var/lib/rwml/rwml.db (or RWML_DISABLED=1)"
        )
    try:
        chosen = choose_settings(settings, None, None, "default")
        recorder = rwml.Recorder(store=settings.store, **chosen)
    except StoreError as error:
        raise UsageError(f"the proxy's traffic cannot be recorded: {error} (RWML_STORE)") from error
    if settings.metrics:
        observe(recorder)
    made = RWMLLogger(recorder)
    with contextlib.suppress(RuntimeError):  # no loop: it is not the proxy that asks
        loop = asyncio.get_running_loop()
        if threading.current_thread() is threading.main_thread():
            for number in _ENDING:
                _write_through_from(number, made, loop)
    return made


def _write_through_from(
    number: signal.Signals, made: RWMLLogger, loop: asyncio.AbstractEventLoop
) -> None:
    former: Any = signal.getsignal(number)
    if not callable(former):  # the default ends the process on the spot: nobody waits for us
        return

    def on_signal(received: int, frame: Any) -> None:
        # Not here: the signal may have come while this thread holds a lock of the recorder.
        with contextlib.suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(made.write_through)
        former(received, frame)

    signal.signal(number, on_signal)
