"""Fast Downward's translator, with its marks on the process put back.

It reads ``sys.argv``, prints to stdout and keeps its options in a module, so one translation runs
at a time in a process.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

_TRANSLATING = threading.RLock()


@contextmanager
def contained() -> Iterator[None]:
    """One translation at a time, with the process's arguments and environment put back."""
    with _TRANSLATING:
        arguments, environment = sys.argv, dict(os.environ)
        sys.argv = ["translate.py", "domain", "task"]  # its options are read on import
        try:
            yield
        finally:
            sys.argv = arguments
            _restore(environment)


def pddl_to_sas(domain: str, problem: str) -> tuple[Any, str]:
    """Translates a game as TextWorld does.

    Returns:
        The translator's task, normalised, and the grounded task in SAS format (version 3).
    """
    with contained():
        import fast_downward

        translate: Any = fast_downward.pddl2sas  # its annotation says str
        return translate(domain, problem)


def _restore(environment: Mapping[str, str]) -> None:
    for name in set(os.environ).difference(environment):
        del os.environ[name]
    for name, value in environment.items():
        if os.environ.get(name) != value:
            os.environ[name] = value
