"""Store -> dataset: a Parquet file of each side, and ``manifest.json``."""

from rwml_trainer.dataset.build import build_dataset
from rwml_trainer.dataset.files import (
    Dataset,
    Filtered,
    Manifest,
    Row,
    read_dataset,
    read_manifest,
    sft_row,
    stream_rows,
)
from rwml_trainer.dataset.report import Report
from rwml_trainer.dataset.splitting import Split, SplitPlan, plan_split

__all__ = [
    "Dataset",
    "Filtered",
    "Manifest",
    "Report",
    "Row",
    "Split",
    "SplitPlan",
    "build_dataset",
    "plan_split",
    "read_dataset",
    "read_manifest",
    "sft_row",
    "stream_rows",
]
