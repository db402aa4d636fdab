"""What of TextWorld and Fast Downward one thread may use at a time, with its marks put back.

TextWorld's parsers keep their state in the module; Fast Downward's translator reads and sets
``sys.argv``, prints to stdout and keeps its options in a module.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_ALONE = threading.RLock()


@contextmanager
def exclusive() -> Iterator[None]:
    """One thread at a time, with the process's arguments put back."""
    with _ALONE:
        arguments = sys.argv
        sys.argv = ["translate.py", "domain", "task"]  # the translator's options, read on import
        try:
            yield
        finally:
            sys.argv = arguments


def pddl_to_sas(domain: str, problem: str) -> tuple[Any, str]:
    """Translates a game as TextWorld does.

    Returns:
        The translator's task, normalised, and the grounded task in SAS format (version 3).
    """
    with exclusive():
        import fast_downward

        translate: Any = fast_downward.pddl2sas  # its annotation says str
        return translate(domain, problem)
