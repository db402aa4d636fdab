"""Store -> one file and its manifest, both whole or not there."""

from __future__ import annotations

import logging
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rwml.errors import UsageError
from rwml.exports.formats import FORMATS, Format, Options
from rwml.exports.ledger import Entry, add_entry, ledger_path
from rwml.exports.manifest import is_manifest, make_origin, manifest_path, write_manifest
from rwml.exports.writing import open_writer
from rwml.extras import require
from rwml.files import file_sha256, whole_file
from rwml.store import Store
from rwml.store.rows import as_key
from rwml.store.urls import store_files

logger = logging.getLogger("rwml")


@dataclass(frozen=True)
class Exported:
    """What an export wrote.

    Attributes:
        rows: in the file.
        left_out: what has no row, by reason.
        manifest: the file that says whose rows these are.
        is_traced: False where the store's ledger could not be written, so that `rwml forget`
            only finds the file when it is named.
    """

    rows: int
    left_out: Mapping[str, int]
    manifest: Path
    is_traced: bool


def export_store(
    store: Store,
    out: Path,
    *,
    format: Format,
    source: str | None = None,
    options: Options = Options(),  # noqa: B008  # frozen
    watch: Callable[[Iterable[Any]], Iterable[Any]] = iter,
) -> Exported:
    """Writes what a store holds as a file for other tools, readable by its owner only.

    Args:
        store: where the trajectories are.
        out: file; an older one is replaced when the new one is whole.
        format: see `rwml.exports.formats`.
        source: only trajectories of this source.
        watch: wraps the trajectories or transitions, to show progress.

    Raises:
        UsageError: `out` cannot be a file, or is one of the store's or a manifest.
        MissingExtraError: pyarrow is needed and not installed.
    """
    spec = FORMATS[format]
    if spec.columns is not None:
        require("train", "pyarrow")
    check_out(out, store.url)
    name = uuid.uuid4().hex
    is_traced = _trace(store.url, Entry(file=str(out.absolute()), export=name))
    if spec.whole:
        items: Iterable[Any] = store.trajectories(source=source)
    else:
        items = store.transitions(history=options.history, source=source)
    origin = make_origin(export=name, format=format, store=store.url, source=source)
    columns = spec.columns() if spec.columns is not None else None
    rows, left_out = 0, Counter[str]()
    with (
        whole_file(out) as temporary,
        write_manifest(manifest_path(out), origin) as manifest,
    ):
        with open_writer(temporary, columns) as add:
            for item in watch(items):
                row = spec.render(item, rows, options)
                if isinstance(row, str):
                    left_out[row] += 1
                    continue
                add(row)
                manifest.add(as_key(item.id if spec.whole else item.trajectory_id))
                rows += 1
        manifest.finish(file_sha256(temporary))
    return Exported(rows, dict(left_out), manifest_path(out), is_traced)


def check_out(out: Path, url: str) -> None:
    """Refuses a place where an export would destroy something else of ours.

    Raises:
        UsageError: see above.
    """
    if out.is_dir() or not out.parent.is_dir():
        raise UsageError(f"{out} cannot be a file: name one in a folder that exists")
    taken = {file.resolve() for file in (*store_files(url), ledger_path(url))}
    beside = manifest_path(out)
    if out.resolve() in taken or beside.resolve() in taken:
        raise UsageError(f"{out} is a file of the store: name another one")
    if is_manifest(out):
        raise UsageError(f"{out} is the manifest of another export: name another file")
    if beside.exists() and not is_manifest(beside):
        raise UsageError(f"{beside} is in the way and no manifest of ours: name another file")


def _trace(url: str, entry: Entry) -> bool:
    """Names the export in the store's ledger, before the file appears."""
    try:
        add_entry(ledger_path(url), entry)
    except OSError as error:
        logger.warning(
            "rwml: %s cannot be written (%s): 'rwml forget' will not find this export by itself",
            ledger_path(url),
            error.strerror,
        )
        return False
    return True
