"""Rows to a file and back, in bounded memory: JSON lines, or Parquet.

Numbers that JSON cannot hold become texts, as in the store. Nothing here looks inside a row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic_core import to_json

from rwml.exports.formats import Row
from rwml.extras import require

if TYPE_CHECKING:
    import pyarrow as pa

GROUP_ROWS = 512
"""Rows of one Parquet row group at most (ours)."""
GROUP_CHARS = 8 * 2**20
"""Characters of one row group, after which it is written: long contexts stay bounded (ours)."""

Add = Callable[[Row], None]


def open_writer(path: Path, columns: pa.Schema | None) -> AbstractContextManager[Add]:
    """A context manager that yields what takes one row after the other.

    Args:
        path: of an empty file.
        columns: schema of a Parquet file; None for JSON lines.

    Raises:
        MissingExtraError: pyarrow is needed and not installed.
    """
    return _lines(path) if columns is None else _parquet(path, columns)


def copy_rows(source: Path, out: Path, stays: Iterator[bool]) -> None:
    """Writes some rows of one file into another, as they are.

    Args:
        source: an export; Parquet files are told by their first bytes.
        out: an empty file.
        stays: says of each row, in order, whether it is copied.
    """
    with source.open("rb") as file:
        is_parquet = file.read(4) == b"PAR1"
    if is_parquet:
        _copy_parquet(source, out, stays)
        return
    with source.open("rb") as lines, out.open("wb") as kept:
        kept.writelines(line for line in lines if next(stays))


@contextmanager
def _lines(path: Path) -> Iterator[Add]:
    with path.open("wb") as file:

        def add(row: Row) -> None:
            file.write(to_json(row, inf_nan_mode="strings") + b"\n")

        yield add


@contextmanager
def _parquet(path: Path, columns: pa.Schema) -> Iterator[Add]:
    require("train", "pyarrow")
    import pyarrow as pa
    import pyarrow.parquet as pq

    waiting: list[Row] = []
    size = 0

    with pq.ParquetWriter(path, columns) as writer:

        def write() -> None:
            nonlocal size
            if waiting:
                writer.write_table(pa.Table.from_pylist(waiting, schema=columns))
                waiting.clear()
                size = 0

        def add(row: Row) -> None:
            nonlocal size
            waiting.append(row)
            size += _chars(row)
            if len(waiting) >= GROUP_ROWS or size >= GROUP_CHARS:
                write()

        yield add
        write()


def _copy_parquet(source: Path, out: Path, stays: Iterator[bool]) -> None:
    require("train", "pyarrow")
    import pyarrow as pa
    import pyarrow.parquet as pq

    with pq.ParquetFile(source) as opened, pq.ParquetWriter(out, opened.schema_arrow) as writer:
        for number in range(opened.num_row_groups):
            table = opened.read_row_group(number)
            kept = table.filter(pa.array(islice(stays, table.num_rows), pa.bool_()))
            if kept.num_rows:
                writer.write_table(kept)


def _chars(value: object) -> int:
    """Roughly how much a row holds: the lengths of its texts."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, dict):
        return sum(map(_chars, value.values()))
    return sum(map(_chars, value)) if isinstance(value, list) else 0
