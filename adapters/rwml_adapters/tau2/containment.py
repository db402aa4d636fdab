"""Keeps tau2's side effects on the process inside the episodes that have them.

tau2 logs through loguru and prints, LiteLLM prints advice, and LangGraph draws random numbers.
Episodes run in several threads, and the host's threads beside them: what is global is changed by
the first episode and put back by the last, and only what an episode prints goes to stderr.
"""

from __future__ import annotations

import contextlib
import gc
import random
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from contextvars import ContextVar
from typing import Any, TextIO

_inside: ContextVar[bool] = ContextVar("rwml_tau2_inside", default=False)
"""Whether the running code belongs to an episode; threads that LangGraph starts inherit it."""


class _Shared:
    """Changes to the process that last while anybody is inside.

    Args:
        changes: made by the first who enters, undone by the last who leaves.
    """

    def __init__(self, *changes: Callable[[], AbstractContextManager[None]]) -> None:
        self._changes = changes
        self._lock = threading.Lock()
        self._count = 0
        self._undo = contextlib.ExitStack()

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        with self._lock:
            if not self._count:
                for change in self._changes:
                    self._undo.enter_context(change())
            self._count += 1
        try:
            yield
        finally:
            with self._lock:
                self._count -= 1
                if not self._count:
                    self._undo.close()


@contextlib.contextmanager
def contained() -> Iterator[None]:
    """Runs a part of tau2: no logs, and prints go to stderr, so that stdout is the host's."""
    with _episodes.inside():
        token = _inside.set(True)
        try:
            yield
        finally:
            _inside.reset(token)


def uncollected() -> AbstractContextManager[None]:
    """Pauses the cyclic collector, for the milliseconds in which databases are copied and hashed.

    Looking for cycles among their many objects, which have none, takes longer than the work. It
    must never be held while a model is asked.
    """
    return _collections.inside()


class _Stdout:
    """Stands for `sys.stdout`: what an episode writes goes to stderr, all else where it went."""

    def __init__(self, stdout: TextIO) -> None:
        self._stdout = stdout

    def __getattr__(self, name: str) -> Any:
        return getattr(sys.stderr if _inside.get() else self._stdout, name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._stdout)


@contextlib.contextmanager
def _episodes_print_to_stderr() -> Iterator[None]:
    before = sys.stdout
    ours: Any = _Stdout(before)
    sys.stdout = ours
    try:
        yield
    finally:
        if sys.stdout is ours:  # else somebody has put another one in its place
            sys.stdout = before


@contextlib.contextmanager
def _no_logs() -> Iterator[None]:
    from loguru import logger

    logger.disable("tau2")
    try:
        yield
    finally:
        logger.enable("tau2")


@contextlib.contextmanager
def _no_litellm_advice() -> Iterator[None]:
    module: Any = sys.modules.get("litellm")
    before = getattr(module, "suppress_debug_info", None)
    if module is not None:
        module.suppress_debug_info = True
    try:
        yield
    finally:
        if module is not None:
            module.suppress_debug_info = before


@contextlib.contextmanager
def _same_random() -> Iterator[None]:
    """LangGraph draws from the module's generator, which the host may have seeded."""
    state = random.getstate()
    try:
        yield
    finally:
        random.setstate(state)


@contextlib.contextmanager
def _no_collections() -> Iterator[None]:
    is_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if is_enabled:
            gc.enable()


_episodes = _Shared(_episodes_print_to_stderr, _no_logs, _no_litellm_advice, _same_random)
_collections = _Shared(_no_collections)
