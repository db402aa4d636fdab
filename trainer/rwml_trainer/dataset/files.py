"""A dataset on disk: a Parquet file of each side and a manifest that is written last.

A folder without a manifest, or whose files do not match its hashes, is never trained on.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from pydantic import BaseModel, ConfigDict, JsonValue

from rwml.errors import DatasetError
from rwml.extras import require
from rwml.files import file_sha256
from rwml.prompts import Templates, as_sft
from rwml.prompts.profiles import Prompt
from rwml.schema import Kind
from rwml_trainer.dataset.selecting import Selection
from rwml_trainer.dataset.splitting import SPLITS, HeldOut, Split
from rwml_trainer.encoders import EncoderMark
from rwml_trainer.recipes import DataRecipe, FilterRecipe

if TYPE_CHECKING:
    import pyarrow as pa

MANIFEST = "manifest.json"
DATASET_VERSION = 2
BATCH_ROWS = 512
"""Rows of one Parquet row group: bounds memory while writing (ours)."""


class Row(TypedDict):
    """One example; the columns of the Parquet files.

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


class Tokens(BaseModel):
    """Mean and maximum of token counts."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    mean: float
    max: int


class Filtered(BaseModel):
    """What the easy-sample filter did to the training rows (RWML sec. 2.2).

    Attributes:
        recipe: its settings.
        tau_d: threshold of the gap at the data stage, one or by kind.
        training_tau_d: the threshold for training that follows from it, one or by kind.
        is_calibrated: whether `tau_d` was found from the data.
        encoder: that measured the gaps.
        rows: training rows before the filter.
        easy: of these, those that counted as easy.
        kept: of the easy ones, those that stayed.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    recipe: FilterRecipe
    tau_d: float | dict[Kind, float]
    training_tau_d: float | dict[Kind, float]
    is_calibrated: bool
    encoder: EncoderMark
    rows: int
    easy: int
    kept: int


class Manifest(BaseModel):
    """How a dataset came to be: enough to build the same files again from the same store.

    Attributes:
        seed: of the filter.
        templates: of the prompts; None for the compact profile.
        selection: by model, tenant and time; None for all of the source.
        transitions: that were read and taken.
        rows: rows per file.
        tasks: tasks (or trajectories without one) per file.
        dropped: transitions left out, by reason.
        masking: tool results of the rows: turned into a ``schema``, left as ``text``, or left
            since they were ``truncated``.
        tokens: of ``prompt`` and ``target``, before the filter.
        held_out: how the validation rows were chosen: ``hash band``; ``nearest to the band`` where
            no task lies in it: then a later round may train on them; or ``rows``.
        kinds: rows by kind, per file.
        template_sha256: hash of the chat template that prompts were measured with.
        store: URL of the store and its counts at the time.
        filtered: what the filter did; None where there was none.
        sha256: of each file.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: int = DATASET_VERSION
    recipe: DataRecipe
    seed: int
    templates: Templates | None
    source: str | None
    selection: Selection | None = None
    model: str
    template_sha256: str
    store: dict[str, JsonValue]
    transitions: int
    rows: dict[Split, int]
    tasks: dict[Split, int]
    kinds: dict[Split, dict[str, int]]
    dropped: dict[str, int]
    masking: dict[str, int]
    tokens: dict[str, Tokens]
    held_out: HeldOut
    filtered: Filtered | None = None
    sha256: dict[str, str]

    @property
    def evaluated(self) -> Split:
        """The side that evaluation predicts: the held-out band, where any task lies in it."""
        return "held_out" if self.rows.get("held_out") else "validation"

    @property
    def evaluated_share(self) -> float:
        """`share_of` the side that evaluation predicts."""
        return self.share_of(self.evaluated)

    def share_of(self, split: Split) -> float:
        """Share of the hash band that a side's tasks lie in; 1 where they may be trained on."""
        if split == "held_out":
            return self.recipe.held_out_share
        by_row = self.held_out == "rows"
        return 1.0 if split == "train" or by_row else self.recipe.untouched_share


@dataclass(frozen=True)
class Dataset:
    """A dataset in memory: the rows of each side, and the manifest."""

    folder: Path
    train: list[Row]
    validation: list[Row]
    held_out: list[Row]
    manifest: Manifest

    @property
    def evaluated(self) -> list[Row]:
        """The rows that evaluation predicts."""
        return self.rows(self.manifest.evaluated)

    def rows(self, split: Split) -> list[Row]:
        """The rows of a side."""
        sides = {"train": self.train, "validation": self.validation, "held_out": self.held_out}
        return sides[split]


def sft_row(row: Row, templates: Templates | None) -> Row:
    """The row of WM SFT: its prompt asks for the prediction alone (RWML tables A5, A7)."""
    prompt = as_sft(row["prompt"], kind=row["kind"], templates=templates)
    return {**row, "prompt": prompt}


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


def read_manifest(folder: Path) -> Manifest:
    """Reads what a dataset says of itself, without its rows.

    Raises:
        DatasetError: it is missing, half-written, or of another version.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise DatasetError(
            f"{folder} is no whole dataset (it has no {MANIFEST}): build one with 'rwml build'"
        )
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        version = values.get("version") if isinstance(values, dict) else None
        if isinstance(version, int) and version != DATASET_VERSION:
            age = "a newer" if version > DATASET_VERSION else "an older"
            raise DatasetError(f"{folder} was built by {age} rwml: build it again")
        return Manifest.model_validate(values)
    except DatasetError:
        raise
    except ValueError as error:
        raise DatasetError(f"{path} is not a dataset manifest: {error}") from error


def check_files(folder: Path, manifest: Manifest) -> None:
    """Refuses a dataset whose files are not those that the manifest names.

    Raises:
        DatasetError: one is missing or changed.
    """
    for name, expected in manifest.sha256.items():
        file = folder / name
        if not file.is_file() or file_sha256(file) != expected:
            raise DatasetError(f"{file} is missing or changed since it was built: build it again")


def read_dataset(folder: Path) -> Dataset:
    """Reads a whole dataset.

    Raises:
        DatasetError: it is missing, half-written, changed since it was built, or of another
            version.
    """
    require("train", "pyarrow")
    manifest = read_manifest(folder)
    check_files(folder, manifest)
    train, validation, held_out = (list(stream_rows(folder / file_name(s))) for s in SPLITS)
    return Dataset(folder, train, validation, held_out, manifest)


def stream_rows(path: Path) -> Iterator[Row]:
    """Rows of a Parquet file, a batch of them in memory at a time."""
    require("train", "pyarrow")
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=BATCH_ROWS):
            yield from batch.to_pylist()  # type: ignore[misc]  # the schema is Row's


def kinds_of(path: Path) -> set[Kind]:
    """The kinds of a Parquet file's rows; their texts are not read."""
    require("train", "pyarrow")
    import pyarrow.parquet as pq

    return set(pq.read_table(path, columns=["kind"])["kind"].unique().to_pylist())


def is_dataset(folder: Path) -> bool:
    """Whether a folder holds a dataset of ours, of any version, whole or changed."""
    try:
        values = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(values, dict) and {"version", "template_sha256", "sha256"} <= set(values)


def _arrow_schema() -> pa.Schema:
    import pyarrow as pa

    message = pa.struct([("role", pa.string()), ("content", pa.string())])
    text = ("next_state", "kind", "id", "source", "task_id", "tool")
    return pa.schema([("prompt", pa.list_(message)), *((name, pa.string()) for name in text)])
