"""Store -> dataset: ``train.parquet``, ``validation.parquet`` and ``manifest.json``."""

from rwml_trainer.dataset.build import build_dataset
from rwml_trainer.dataset.files import Dataset, Manifest, Row, read_dataset
from rwml_trainer.dataset.splitting import Split, split_groups

__all__ = ["Dataset", "Manifest", "Row", "Split", "build_dataset", "read_dataset", "split_groups"]
