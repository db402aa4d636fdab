"""Predictions that a filter model made, kept so that none is ever made twice.

One SQLite file for each model and setting: what is in it survives any interruption, and looking
one sample up does not read the others.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path

from rwml.prompts.profiles import Prompt


def sample_key(prompt: Prompt) -> bytes:
    """What a sample is known by: its prompt alone, whatever dataset it is in."""
    text = json.dumps(prompt, sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode()).digest()[:16]


class Attempts:
    """Predictions by sample; use as a context manager."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._connection = sqlite3.connect(path, timeout=60.0)
        with self._connection:
            self._connection.execute(
                "CREATE TABLE IF NOT EXISTS attempts (sample BLOB PRIMARY KEY, texts TEXT NOT NULL)"
                " WITHOUT ROWID"
            )

    def find(self, samples: Sequence[bytes]) -> dict[bytes, list[str]]:
        """The predictions of those samples that have any."""
        found: dict[bytes, list[str]] = {}
        query = "SELECT texts FROM attempts WHERE sample = ?"
        for sample in samples:
            with closing(self._connection.execute(query, (sample,))) as cursor:
                row = cursor.fetchone()
            if row is not None:
                found[sample] = json.loads(row[0])
        return found

    def keep(self, predictions: Mapping[bytes, Sequence[str]]) -> None:
        """Keeps the predictions of samples; they are on disk when this returns."""
        rows = [(s, json.dumps(list(texts))) for s, texts in predictions.items()]
        with self._connection:
            self._connection.executemany("INSERT OR REPLACE INTO attempts VALUES (?, ?)", rows)

    def __enter__(self) -> Attempts:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()
