"""What is recorded must outlive a SIGTERM, which ends a Python program without `atexit`.

Only `rwml.instrument` asks for this, only in the main thread, and only where nobody else has said
what the signal does: a handler of the host program is never replaced or wrapped. Programs that
handle it themselves (servers, `asyncio`) end normally, and recorders close then. Ours closes the
recorder, for at most `rwml.recorder.CLOSE_TIMEOUT_S`, and lets the signal do what it does by
default: the exit status is the same. A main thread that is in a long call of a C library hears of
the signal after it; until then the program lives on.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from typing import Any

AGAIN_S = 0.01
"""When the signal is looked at again if it came at a bad moment (ours)."""


def close_on_sigterm(
    close: Callable[[], None], *, is_busy: Callable[[], bool]
) -> Callable[[], None]:
    """Calls `close` when SIGTERM ends this process.

    Args:
        close: waits for other threads, for a few seconds at most.
        is_busy: whether this thread, which the signal interrupts, holds what they wait for.

    Returns:
        A function that undoes it; where another handler is in place, or this is not the main
        thread, nothing was done, and it does nothing.
    """
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        return lambda: None

    def on_signal(number: int, frame: Any) -> None:
        if is_busy():  # it will not be in a moment, but for that this has to return
            threading.Timer(AGAIN_S, os.kill, (os.getpid(), number)).start()
            return
        try:
            close()
        finally:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    def undo() -> None:
        is_main = threading.current_thread() is threading.main_thread()
        if is_main and signal.getsignal(signal.SIGTERM) is on_signal:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)

    signal.signal(signal.SIGTERM, on_signal)
    return undo
