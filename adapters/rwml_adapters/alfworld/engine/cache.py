"""Compiled games on disk, by the hash of what they were made from.

Entries are JSON (never code) in a folder of the user's own (0700); they are written whole, so
that several processes may fill the cache at once. An entry that cannot be read is made again, and
without a usable folder everything works, only slower.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import stat
import warnings
import zlib
from importlib.metadata import version
from pathlib import Path

from rwml.extras import require
from rwml.files import whole_file
from rwml_adapters.alfworld.engine.compiled import CompiledGame
from rwml_adapters.alfworld.logic import GameText

FORMAT = 2
"""Counts up whenever the compiled data changes."""


def compiled_game(text: GameText) -> CompiledGame:
    """A game from the cache, or compiled and put there.

    Raises:
        UsageError: the game's grammar cannot be read, or runs code.
        MissingExtraError: alfworld or textworld is not installed.
    """
    key = _key(text)
    folder = _usable(cache_folder())
    file = folder / f"{key}.json.z" if folder else None
    if file is not None and file.exists():
        try:
            entry = json.loads(zlib.decompress(file.read_bytes()))
            if entry["key"] == key:
                return CompiledGame(entry["data"])
        except (OSError, ValueError, TypeError, LookupError, AttributeError, zlib.error):
            pass  # torn or foreign: made again below, and replaced
    from rwml_adapters.alfworld.engine.compiling import compile_game

    packed = json.dumps({"key": key, "data": compile_game(text)}, separators=(",", ":"))
    if file is not None:
        try:
            with whole_file(file) as temporary:
                temporary.write_bytes(zlib.compress(packed.encode(), 1))
        except OSError as error:
            _warn(f"{file.parent} cannot be written ({error.strerror or error})")
    # Through JSON, so that a fresh game is what a cached one will be.
    return CompiledGame(json.loads(packed)["data"])


def cache_folder() -> Path:
    """Where compiled games are kept: ``$XDG_CACHE_HOME/rwml/alfworld``, or below ``~/.cache``."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "rwml" / "alfworld"


def _key(text: GameText) -> str:
    digest = hashlib.sha256(f"{FORMAT}\0{_versions()}".encode())
    for part in (text.domain, text.problem, text.grammar):
        digest.update(b"\0" + hashlib.sha256(part.encode()).digest())
    return digest.hexdigest()


@functools.cache
def _versions() -> str:
    require("alfworld", "textworld", "fast_downward")
    return f"{version('textworld')}\0{version('fast_downward_textworld')}"


def _usable(folder: Path) -> Path | None:
    """The folder, made if missing; None when it is not ours alone to write."""
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        found = folder.stat()
    except OSError as error:
        _warn(f"{folder} cannot be made ({error.strerror or error})")
        return None
    owned = not hasattr(os, "getuid") or found.st_uid == os.getuid()
    if not owned or stat.S_IMODE(found.st_mode) & 0o077:
        _warn(f"{folder} is open to other users: 'chmod 700' it")
        return None
    return folder


@functools.cache  # once per process and reason
def _warn(reason: str) -> None:
    warnings.warn(f"ALFWorld games are compiled anew each time: {reason}", stacklevel=2)
