"""Checkpoints of a training: each whole, or taken for none.

    CHECKPOINTS/
      step-40/          what the trainer saved: weights as safetensors, optimizer, schedule, RNG
        manifest.json   step, and the SHA-256 of every other file
      step-60/

A checkpoint is written to a hidden folder, synced, listed in its manifest and renamed. Nothing of
a folder is loaded before all of it has been hashed against its manifest.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from rwml.files import file_sha256, sync, write_json

MANIFEST = "manifest.json"
KEPT = 2
"""Checkpoints that are kept: a torn newest leaves one to go on from."""

_NAME = re.compile(r"step-(\d+)")


class CheckpointManifest(BaseModel):
    """What `manifest.json` of a checkpoint holds.

    Attributes:
        step: optimiser steps that were taken.
        sha256: hash of every other file, by its path in the folder.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    step: int
    sha256: dict[str, str]


def staging_folder(folder: Path) -> Path:
    """Where a checkpoint is written before it is whole."""
    return folder / ".unfinished"


def clear(staging: Path) -> None:
    """Makes the staging folder, without what an interrupted save left there."""
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)


def seal(written: Path, folder: Path, step: int) -> Path:
    """Makes a written checkpoint whole, and drops all but the newest ones.

    Args:
        written: folder that the trainer wrote, on the same file system.
        folder: of the checkpoints.
        step: optimiser steps behind it.

    Returns:
        The checkpoint.
    """
    for path in written.rglob("*"):
        sync(path)
    manifest = CheckpointManifest(step=step, sha256=_hashes(written))
    write_json(written / MANIFEST, manifest.model_dump(mode="json"))
    sync(written)
    target = folder / f"step-{step}"
    shutil.rmtree(target, ignore_errors=True)  # a torn one of an earlier try
    written.rename(target)
    sync(folder)
    for _, old in _found(folder)[KEPT:]:
        shutil.rmtree(old, ignore_errors=True)
    return target


def newest_whole(folder: Path, *, report: Callable[[str], None]) -> tuple[int, Path] | None:
    """The newest checkpoint that is whole, and its step; None where there is none.

    Args:
        folder: of the checkpoints.
        report: told in one line of each newer one that is torn.
    """
    for step, checkpoint in _found(folder):
        fault = _fault(checkpoint, step)
        if fault is None:
            return step, checkpoint
        report(f"checkpoint {checkpoint} is torn ({fault}): trying the one before")
    return None


def _found(folder: Path) -> list[tuple[int, Path]]:
    """Steps and folders, newest first."""
    if not folder.is_dir():
        return []
    matches = [(_NAME.fullmatch(path.name), path) for path in folder.iterdir()]
    return sorted(((int(m[1]), path) for m, path in matches if m), reverse=True)


def _fault(checkpoint: Path, step: int) -> str | None:
    """Why a checkpoint is not whole; None if it is."""
    try:
        text = (checkpoint / MANIFEST).read_text(encoding="utf-8")
        manifest = CheckpointManifest.model_validate_json(text)
    except (OSError, ValidationError, ValueError):
        return f"no readable {MANIFEST}"
    if manifest.step != step:
        return f"{MANIFEST} is of step {manifest.step}"
    if any(path.is_symlink() for path in checkpoint.rglob("*")):
        return "it holds a link"
    hashes = _hashes(checkpoint)
    for name in sorted({*hashes, *manifest.sha256}):
        if hashes.get(name) != manifest.sha256.get(name):
            return f"{name} is not what {MANIFEST} lists"
    return None


def _hashes(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): file_sha256(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path != folder / MANIFEST
    }
