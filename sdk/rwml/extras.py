"""Turns a missing optional dependency into one clear line."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from rwml.errors import MissingExtraError


def require(extra: str, *modules: str) -> None:
    """Checks that modules are installed, without importing them.

    Raises:
        MissingExtraError: one is not; its message names the extra that brings it.
    """
    for module in modules:
        try:
            found = find_spec(module) is not None
        except ImportError:  # the parent of a dotted name is missing
            found = False
        if not found:
            raise MissingExtraError(extra, module)


def package_folder(name: str) -> Path | None:
    """Folder of an installed package, which is not imported; None where there is none."""
    spec = find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(next(iter(spec.submodule_search_locations)))
