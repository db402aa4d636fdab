"""Lets LiteLLM tell of the calls that it has not told of when its event loop is gone.

LiteLLM queues its callbacks of asynchronous calls, and runs those that are left when the process
ends: after every `atexit` function that was registered later than LiteLLM's own, so after a
recorder is closed. This must never touch a queue whose loop still runs. Source: litellm's
`LoggingWorker`.
"""

from __future__ import annotations

import contextlib
import threading
from typing import Any

DRAIN_TIMEOUT_S = 5.0
"""How long the exit of a process, or an undo, waits for it (ours)."""


def drain_litellm() -> None:
    """Runs LiteLLM's queued callbacks where nothing else will; raises nothing."""
    with contextlib.suppress(Exception):  # another version may have no such queue: none to drain
        from litellm.litellm_core_utils.logging_worker import GLOBAL_LOGGING_WORKER

        worker: Any = GLOBAL_LOGGING_WORKER
        loop = worker._bound_loop
        if loop is None or loop.is_running():
            return
        # In a thread of its own: it makes a loop current, which is not ours to change here.
        thread = threading.Thread(target=worker._flush_on_exit, name="rwml-drain", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # the interpreter is ending, and starts no more
            worker._flush_on_exit()
        else:
            thread.join(DRAIN_TIMEOUT_S)
