"""Files and folders that are whole or not there: temporary name, sync, rename."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
import uuid
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from rwml.errors import UsageError


def write_json(path: Path, value: Mapping[str, object]) -> None:
    """Writes a JSON file whole or not at all; its folder is made if missing.

    Raises:
        ValueError: a value is not JSON (NaN, say).
    """
    text = json.dumps(value, ensure_ascii=False, indent=2, allow_nan=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path, mode=0o666) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


@contextmanager
def whole_file(path: Path, *, mode: int = 0o600) -> Iterator[Path]:
    """Yields a temporary file beside `path`, which takes its place when the block ends well.

    The file is empty. A former one is replaced; when the block raises, everything stays as it was.

    Args:
        path: of the file; its folder exists.
        mode: permissions, less the umask; by default for its owner only.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        temporary.touch(mode=mode, exist_ok=False)
        yield temporary
        sync(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync(path.parent)


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """Yields a temporary folder beside `folder`, which takes its place when the block ends well.

    A former folder is replaced. When the block raises, everything stays as it was.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}")
    former = folder.with_name(f".{folder.name}.former.{uuid.uuid4().hex}")
    temporary.mkdir()
    try:
        yield temporary
        for path in temporary.rglob("*"):
            sync(path)
        sync(temporary)
        if folder.exists():
            folder.rename(former)
        try:
            temporary.rename(folder)
        except OSError:
            if former.exists():
                former.rename(folder)
            raise
        sync(folder.parent)
        shutil.rmtree(former, ignore_errors=True)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def make_private(folder: Path) -> None:
    """Makes a folder that its owner alone can enter, or closes one that exists to all others.

    Raises:
        UsageError: it is somebody else's, who could put his keys and orders into it.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    found = folder.stat()
    if found.st_uid != os.getuid():
        raise UsageError(f"{folder} belongs to another user: choose a folder of your own")
    if stat.S_IMODE(found.st_mode) & 0o077:
        folder.chmod(0o700)


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, as hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def folder_sha256(folder: Path, *, suffixes: Collection[str]) -> str:
    """SHA-256 of the names and contents of a folder's files with these suffixes, as hex."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.suffix in suffixes:
            place = path.relative_to(folder).as_posix()
            digest.update(f"{place}\0{file_sha256(path)}\n".encode())
    return digest.hexdigest()


def sync(path: Path) -> None:
    """Waits until a file, or a folder's list of names, is on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
