"""Finds what a user names as ``module:name``: an environment's factory, a graph, a function.

The module is imported, so this is only for names that the user of the program types. A module of
the folder in which the program was started is found too, after everything that is installed.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

from rwml.errors import UsageError


def load_reference(reference: str) -> object:
    """What ``module:name`` names.

    Raises:
        UsageError: there is no such module, or it has no such name.
        Exception: whatever the module raised when it was imported.
    """
    module, _, name = reference.partition(":")
    if not module or not name:
        raise UsageError(f"{reference!r} is no reference: write it as module:name")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
    try:
        found: object = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise
        raise UsageError(
            f"no module {module!r}: install it, or go to the folder that it is in"
        ) from None
    for part in name.split("."):
        if not hasattr(found, part):
            raise UsageError(f"the module {module!r} has no {name!r}")
        found = getattr(found, part)
    return found
