"""A dataset on disk: two Parquet files and a manifest that is written last.

A folder without a manifest, or whose files do not match its hashes, is never trained on.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError

from rwml.errors import DatasetError
from rwml.extras import require
from rwml.files import file_sha256
from rwml.prompts.profiles import Prompt
from rwml.schema import Kind
from rwml_trainer.dataset.splitting import HeldOut, Split
from rwml_trainer.recipes import DataRecipe

if TYPE_CHECKING:
    import pyarrow as pa

MANIFEST = "manifest.json"
DATASET_VERSION = 1
BATCH_ROWS = 512
"""Rows of one Parquet row group: bounds memory while writing (ours)."""


class Row(TypedDict):
    """One example; the columns of both Parquet files.

    ``prompt``: chat messages. ``next_state``: the target text. ``kind``: who answered. ``id``:
    ``trajectory/step/attempt``. ``tool``: the called tool; None when none or several.
    """

    prompt: Prompt
    next_state: str
    kind: Kind
    id: str
    source: str
    task_id: str | None
    tool: str | None


class Manifest(BaseModel):
    """How a dataset came to be: enough to build the same files again from the same store.

    Attributes:
        rows: rows per file.
        tasks: tasks (or trajectories without one) per file.
        dropped: transitions left out, by reason.
        held_out: ``hash band``, or ``nearest to the band`` where no task lies in it: then a later
            round may train on what is held out now.
        kinds: rows by kind, per file.
        template_sha256: hash of the chat template that prompts were measured with.
        store: URL of the store and its counts at the time.
        sha256: of each file.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: int = DATASET_VERSION
    recipe: DataRecipe
    source: str | None
    model: str
    template_sha256: str
    store: dict[str, JsonValue]
    transitions: int
    rows: dict[Split, int]
    tasks: dict[Split, int]
    kinds: dict[Split, dict[str, int]]
    dropped: dict[str, int]
    held_out: HeldOut
    sha256: dict[str, str]


@dataclass(frozen=True)
class Dataset:
    """A dataset in memory: rows of both files, and the manifest."""

    folder: Path
    train: list[Row]
    validation: list[Row]
    manifest: Manifest


def file_name(split: Split) -> str:
    """Name of a split's Parquet file."""
    return f"{split}.parquet"


class RowWriter:
    """Writes rows to a Parquet file in batches; use as a context manager."""

    def __init__(self, path: Path) -> None:
        require("train", "pyarrow")
        import pyarrow.parquet as pq

        self._schema = _arrow_schema()
        self._writer = pq.ParquetWriter(path, self._schema)
        self._waiting: list[Row] = []

    def add(self, row: Row) -> None:
        """Adds a row."""
        self._waiting.append(row)
        if len(self._waiting) >= BATCH_ROWS:
            self._write()

    def _write(self) -> None:
        import pyarrow as pa

        if self._waiting:
            self._writer.write_table(pa.Table.from_pylist(self._waiting, schema=self._schema))
            self._waiting = []

    def __enter__(self) -> RowWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._write()
        self._writer.close()


def read_dataset(folder: Path) -> Dataset:
    """Reads a whole dataset.

    Raises:
        DatasetError: it is missing, half-written, changed since it was built, or too new.
    """
    require("train", "pyarrow")
    path = folder / MANIFEST
    if not path.is_file():
        raise DatasetError(
            f"{folder} is no whole dataset (it has no {MANIFEST}): build one with 'rwml build'"
        )
    try:
        manifest = Manifest.model_validate_json(path.read_text(encoding="utf-8"))
    except (ValidationError, ValueError) as error:
        raise DatasetError(f"{path} is not a dataset manifest: {error}") from error
    if manifest.version > DATASET_VERSION:
        raise DatasetError(f"{folder} was built by a newer rwml: upgrade, or build it again")
    for name, expected in manifest.sha256.items():
        file = folder / name
        if not file.is_file() or file_sha256(file) != expected:
            raise DatasetError(f"{file} is missing or changed since it was built: build it again")
    rows = {split: _read_rows(folder / file_name(split)) for split in ("train", "validation")}
    return Dataset(folder, rows["train"], rows["validation"], manifest)


def is_dataset(folder: Path) -> bool:
    """Whether a folder holds a dataset of ours, whole or changed."""
    try:
        Manifest.model_validate_json((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return True


def _read_rows(path: Path) -> list[Row]:
    import pyarrow.parquet as pq

    return pq.read_table(path).to_pylist()  # type: ignore[return-value]  # the schema is Row's


def _arrow_schema() -> pa.Schema:
    import pyarrow as pa

    message = pa.struct([("role", pa.string()), ("content", pa.string())])
    text = ("next_state", "kind", "id", "source", "task_id", "tool")
    return pa.schema([("prompt", pa.list_(message)), *((name, pa.string()) for name in text)])
