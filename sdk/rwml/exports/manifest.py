"""The manifest beside an export: whose rows stand where, so that they can be found again.

`FILE.manifest.jsonl`: a first line that says what the file is, one line for each run of rows of
one trajectory, in order, and a last one with the total and the hash. It holds the keys of
trajectories and no text of theirs. A manifest whose hash does not match is never relied on.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

from rwml.errors import DatasetError
from rwml.files import file_sha256, whole_file

SUFFIX = ".manifest.jsonl"
KIND = "rwml export"
VERSION = 1


@dataclass(frozen=True)
class Origin:
    """The first line: what the file is.

    Attributes:
        export: random name of this export; another one to the same path has another.
        format: of the file.
        store: URL of the store, without a password.
        source: filter that was set; None for all.
        made_at: when it was begun (UTC, ISO 8601).
    """

    export: str
    format: str
    store: str
    source: str | None
    made_at: str
    kind: str = KIND
    version: int = VERSION


@dataclass(frozen=True)
class Run:
    """Rows that stand together and come from one trajectory.

    Attributes:
        trajectory: its key, as `rwml.store.rows.as_key` makes it.
        rows: how many.
        forgotten: whether the store has forgotten it, while the rows are still in the file.
    """

    trajectory: str
    rows: int
    forgotten: bool = False


@dataclass(frozen=True)
class Manifest:
    """What a manifest says besides its runs, which are streamed.

    Attributes:
        path: of the manifest.
        origin: its first line.
        rows: of the whole file.
        sha256: of the file when it was written.
    """

    path: Path
    origin: Origin
    rows: int
    sha256: str

    def runs(self) -> Iterator[Run]:
        """Streams the runs, in the order of the file."""
        return (Run(**line) for line in _lines(self.path) if "trajectory" in line)

    @property
    def file(self) -> Path:
        """The export that it belongs to."""
        return Path(str(self.path).removesuffix(SUFFIX))

    def is_current(self) -> bool:
        """Whether the export is what was written; one that is not there is not."""
        return self.file.is_file() and file_sha256(self.file) == self.sha256


def manifest_path(file: Path) -> Path:
    """Where the manifest of an export is."""
    return file.with_name(file.name + SUFFIX)


def make_origin(*, export: str, format: str, store: str, source: str | None) -> Origin:
    """The first line of a manifest that is begun now."""
    made_at = datetime.now(UTC).isoformat(timespec="seconds")
    return Origin(export=export, format=format, store=store, source=source, made_at=made_at)


class ManifestWriter:
    """Takes the rows of an export as they are written. Made by `write_manifest`."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._rows = 0
        self._run: Run | None = None

    def add(self, trajectory: str, rows: int = 1, *, forgotten: bool = False) -> None:
        """Says that the next rows come from a trajectory.

        Args:
            trajectory: its key.
        """
        former = self._run
        if former and (former.trajectory, former.forgotten) == (trajectory, forgotten):
            rows += former.rows
        else:
            self._write_run()
        self._run = Run(trajectory, rows, forgotten)

    def finish(self, sha256: str) -> None:
        """Says that the file is whole, and what its hash is."""
        self._write_run()
        self._put({"rows": self._rows, "sha256": sha256})

    def _write_run(self) -> None:
        if self._run is not None:
            line = asdict(self._run)
            self._put({name: value for name, value in line.items() if value is not False})
            self._rows += self._run.rows
            self._run = None

    def _put(self, value: dict[str, Any]) -> None:
        self._file.write(json.dumps(value, ensure_ascii=False) + "\n")


@contextmanager
def write_manifest(path: Path, origin: Origin) -> Iterator[ManifestWriter]:
    """Writes a manifest, which appears when the block ends well; call `finish` in it."""
    with whole_file(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.write(json.dumps(asdict(origin), ensure_ascii=False) + "\n")
        yield ManifestWriter(file)
        file.flush()


def read_manifest(path: Path) -> Manifest:
    """Reads the ends of a manifest.

    Raises:
        DatasetError: it is missing, or is none of ours.
    """
    first: dict[str, Any] | None = None
    last: dict[str, Any] = {}
    try:
        for line in _lines(path):
            first, last = first or line, line
        origin = Origin(**(first or {}))
        if origin.kind != KIND or origin.version > VERSION or "trajectory" in last:
            raise ValueError
        return Manifest(path=path, origin=origin, rows=last["rows"], sha256=last["sha256"])
    except FileNotFoundError:
        raise DatasetError(
            f"{path} is not there: nothing says whose rows the export holds"
        ) from None
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise DatasetError(f"{path} is no manifest of an export") from error


def is_manifest(path: Path) -> bool:
    """Whether a file is the manifest of an export."""
    try:
        read_manifest(path)
    except DatasetError:
        return False
    return True


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)
