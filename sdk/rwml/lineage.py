"""Which datasets and runs were built from given trajectories.

Reads only what `rwml build` and `rwml train` leave on disk, not the trainer itself.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from rwml.errors import DatasetError
from rwml.extras import require
from rwml.store.rows import as_key

RUN = "run.json"
FILES = ("train.parquet", "validation.parquet", "held_out.parquet")


@dataclass(frozen=True)
class Affected:
    """A dataset, or the run that was trained on it, and how much of it comes from a subject.

    Attributes:
        folder: as it was given.
        dataset: folder of the dataset; that of the run, where `folder` is a run.
        rows: rows whose trajectory is in question.
    """

    folder: str
    dataset: str
    rows: int


def find_affected(folder: Path, keys: Iterable[str]) -> Affected:
    """Counts the rows of a dataset (or of a run's dataset) that come from trajectories.

    Args:
        folder: made by `rwml build` or `rwml train`.
        keys: keys of trajectories, as `Store.find` gives them.

    Raises:
        DatasetError: it is neither, or cannot be read.
        MissingExtraError: pyarrow is not installed.
    """
    dataset = _dataset_of(folder)
    files = [dataset / name for name in FILES if (dataset / name).is_file()]
    if not files:
        raise DatasetError(f"{dataset} is no dataset: it has none of {', '.join(FILES)}")
    wanted = frozenset(keys)
    rows = sum(_count_rows(file, wanted) for file in files)
    return Affected(folder=str(folder), dataset=str(dataset), rows=rows)


def _dataset_of(folder: Path) -> Path:
    manifest = folder / RUN
    if not manifest.is_file():
        return folder
    try:
        return Path(json.loads(manifest.read_text(encoding="utf-8"))["dataset"])
    except (ValueError, KeyError, TypeError) as error:
        raise DatasetError(f"{manifest} names no dataset") from error


def _count_rows(file: Path, wanted: frozenset[str]) -> int:
    require("train", "pyarrow")
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(file) as opened:
            batches = opened.iter_batches(columns=["id"])
            ids = (str(row) for batch in batches for row in batch.column("id").to_pylist())
            return sum(as_key(row.rsplit("/", 2)[0]) in wanted for row in ids)
    except (OSError, KeyError, pa.ArrowException) as error:
        raise DatasetError(f"{file} cannot be read: {error}") from error
