"""Which files were exported from a store: one line for each, appended before the file appears.

Of a SQLite store it lies beside the database, so that it moves with it. Of a server's it lies in
the user's state folder, and knows what this user exported on this machine. It holds paths only.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from rwml.store.keys import state_folder
from rwml.store.urls import parse_url


@dataclass(frozen=True)
class Entry:
    """One export.

    Attributes:
        file: absolute path.
        export: its random name, which its manifest has too.
    """

    file: str
    export: str


def ledger_path(url: str) -> Path:
    """Where the ledger of a store is.

    Args:
        url: of the store.

    Raises:
        StoreError: the URL cannot be read.
    """
    parsed = parse_url(url)
    if parsed.get_backend_name() == "sqlite":
        return Path(f"{parsed.database}.exports.jsonl")
    return state_folder(parsed) / "exports.jsonl"


def add_entry(ledger: Path, entry: Entry) -> None:
    """Appends an entry.

    Raises:
        OSError: it cannot be written.
    """
    ledger.parent.mkdir(parents=True, exist_ok=True)
    flags = os.O_APPEND | os.O_CREAT | os.O_WRONLY
    descriptor = os.open(ledger, flags, stat.S_IRUSR | stat.S_IWUSR)
    try:
        # One write, so that two exports do not mix; begun anew, should the last line be torn.
        os.write(descriptor, f"\n{json.dumps(asdict(entry))}\n".encode())
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_entries(ledger: Path) -> Iterator[Entry]:
    """The latest entry of each path; a torn line was of an export that never appeared."""
    latest: dict[str, Entry] = {}
    try:
        with ledger.open(encoding="utf-8", errors="replace") as file:
            for line in file:
                try:
                    entry = Entry(**json.loads(line))
                except (ValueError, TypeError):
                    continue
                latest[entry.file] = entry
    except FileNotFoundError:
        return
    yield from latest.values()
