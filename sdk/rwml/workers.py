"""A few threads that never keep a process from ending.

The threads of `concurrent.futures.ThreadPoolExecutor` do: the interpreter waits for them when it
exits, and an endpoint that hangs would hold it up for as long as a request may take.
"""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from queue import Empty, SimpleQueue
from typing import Any, ParamSpec, TypeVar

_Given = ParamSpec("_Given")
_Made = TypeVar("_Made")
_Task = tuple[Future[Any], Callable[[], Any]]


class Workers:
    """Calls functions in threads, in the order in which they are given.

    Threads are started when they are needed, and end when this is closed or no longer used.

    Args:
        count: threads at most.
        name: of the threads.
    """

    def __init__(self, count: int, *, name: str) -> None:
        self._count = count
        self._name = name
        self._tasks: SimpleQueue[_Task | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._is_closed = False
        weakref.finalize(self, self._tasks.put, None)

    def submit(
        self, function: Callable[_Given, _Made], *args: _Given.args, **kwargs: _Given.kwargs
    ) -> Future[_Made]:
        """Calls a function when a thread is free.

        Raises:
            RuntimeError: this was closed.
        """
        future: Future[_Made] = Future()
        with self._lock:
            if self._is_closed:
                raise RuntimeError("these threads were closed")
            self._tasks.put((future, lambda: function(*args, **kwargs)))
            if len(self._threads) < self._count:
                name = f"{self._name}-{len(self._threads)}"
                thread = threading.Thread(target=_work, args=(self._tasks,), name=name, daemon=True)
                thread.start()
                self._threads.append(thread)
        return future

    def close(self) -> None:
        """Gives up what has not begun, and waits for what has."""
        with self._lock:
            self._is_closed = True
        given_up = []
        try:
            while True:
                given_up.append(self._tasks.get_nowait())
        except Empty:
            pass
        for task in given_up:
            if task is not None:
                task[0].cancel()
        self._tasks.put(None)
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join()


def results(asked: Sequence[Future[_Made]]) -> list[_Made]:
    """All results; where one fails, what has not begun is given up."""
    try:
        return [future.result() for future in asked]
    finally:
        for future in asked:
            future.cancel()


async def wait_for_all(asked: Sequence[Future[_Made]]) -> list[_Made]:
    """As `results`, awaited."""
    try:
        return list(await asyncio.gather(*map(asyncio.wrap_future, asked)))
    finally:
        for future in asked:
            future.cancel()


def _work(tasks: SimpleQueue[_Task | None]) -> None:
    """Runs in a thread, and knows of the queue alone: so `Workers` can be collected."""
    while (task := tasks.get()) is not None:
        future, call = task
        del task
        if future.set_running_or_notify_cancel():
            try:
                made = call()
            except BaseException as error:  # noqa: BLE001 - it is the caller's
                future.set_exception(error)
            else:
                future.set_result(made)
                del made
        del future, call
    tasks.put(None)  # for the next thread
