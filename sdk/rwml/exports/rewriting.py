"""Exports that hold what a store has forgotten: finding their rows, and writing them without.

Which rows are whose is the manifest's word alone, so a file that was changed since it was exported
is named and left as it is.
"""

from __future__ import annotations

import stat
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from rwml.errors import DatasetError
from rwml.exports.ledger import ledger_path, read_entries
from rwml.exports.manifest import Manifest, Run, manifest_path, read_manifest, write_manifest
from rwml.exports.writing import copy_rows
from rwml.files import file_sha256, whole_file

State = Literal["intact", "changed", "missing", "unknown", "rewritten"]


@dataclass(frozen=True)
class AffectedExport:
    """An export with rows of forgotten trajectories, or one of which that cannot be told.

    Attributes:
        file: the export.
        format: of it; None where it has no manifest.
        rows: of the trajectories in question, and of those forgotten before; None where it has
            no manifest.
        state: ``intact``; ``changed`` since it was exported, ``missing`` from its place, or
            ``unknown``, without a manifest: these cannot be rewritten. ``rewritten`` when it was.
    """

    file: str
    format: str | None
    rows: int | None
    state: State


def find_exports(
    url: str, keys: Collection[str], *, more: Iterable[Path] = ()
) -> list[AffectedExport]:
    """Finds the exports of a store that hold trajectories, or may hold them.

    Args:
        url: of the store; its ledger says what was exported.
        keys: keys of trajectories, as `Store.find` gives them.
        more: further files, such as copies.

    Raises:
        DatasetError: one of `more` is no export with a manifest.
        StoreError: the URL cannot be read.
    """
    wanted = frozenset(keys)
    found: dict[Path, AffectedExport] = {}
    for file in more:
        found[file.absolute()] = _look(file, read_manifest(manifest_path(file)), wanted)
    for entry in read_entries(ledger_path(url)):
        file = Path(entry.file)
        try:
            manifest = read_manifest(manifest_path(file))
        except DatasetError:
            state: State = "unknown" if file.exists() else "missing"
            found.setdefault(file, AffectedExport(str(file), None, None, state))
            continue
        if manifest.origin.export == entry.export:  # else another export took its place
            found.setdefault(file, _look(file, manifest, wanted))
    return [export for export in found.values() if export.rows != 0]


def remove_rows(export: AffectedExport, keys: Collection[str]) -> AffectedExport:
    """Writes an export again without the rows of trajectories, and of those forgotten before.

    It is whole at every moment: the former file, or the new one.

    Returns:
        The export as it is now; one that is not intact is left alone.

    Raises:
        DatasetError: it cannot be written.
        MissingExtraError: it is a Parquet file, and pyarrow is not installed.
    """
    if export.state != "intact":
        return export
    file, wanted = Path(export.file), frozenset(keys)
    former = read_manifest(manifest_path(file))
    stays = _places(former, lambda run: not run.forgotten and run.trajectory not in wanted)
    mode = stat.S_IMODE(file.stat().st_mode)
    with (
        _errors(file),
        whole_file(file, mode=mode) as temporary,
        write_manifest(former.path, former.origin) as manifest,
    ):
        copy_rows(file, temporary, stays)
        for run in former.runs():
            if not run.forgotten and run.trajectory not in wanted:
                manifest.add(run.trajectory, run.rows)
        manifest.finish(file_sha256(temporary))
    return replace(export, state="rewritten")


def mark_forgotten(export: AffectedExport, keys: Collection[str]) -> None:
    """Notes in the manifest that the store has forgotten trajectories whose rows are still there.

    So a later `remove_rows` finds them, though the store no longer knows their keys.

    Raises:
        DatasetError: it cannot be written.
    """
    if export.rows is None:
        return
    wanted = frozenset(keys)
    former = read_manifest(manifest_path(Path(export.file)))
    with _errors(former.path), write_manifest(former.path, former.origin) as manifest:
        for run in former.runs():
            gone = run.forgotten or run.trajectory in wanted
            manifest.add(run.trajectory, run.rows, forgotten=gone)
        manifest.finish(former.sha256)


def _look(file: Path, manifest: Manifest, wanted: frozenset[str]) -> AffectedExport:
    runs = manifest.runs()
    rows = sum(run.rows for run in runs if run.forgotten or run.trajectory in wanted)
    state: State = "intact"
    if not file.exists():
        state = "missing"
    elif rows and not manifest.is_current():
        state = "changed"
    return AffectedExport(str(file), manifest.origin.format, rows, state)


@contextmanager
def _errors(file: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DatasetError(f"{file} cannot be written: {error.strerror}") from error


def _places(manifest: Manifest, keep: Callable[[Run], bool]) -> Iterator[bool]:
    """For each row of the file, in order, whether its run is kept."""
    for run in manifest.runs():
        kept = keep(run)
        for _ in range(run.rows):
            yield kept
