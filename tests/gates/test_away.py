"""Gate 2: a full disk, a read-only one, a locked store: the agent goes on, and nothing is unclear.

The agent's output is the same, memory grows by 64 MiB at most, what was accepted is durable or
counted, and everything that waited arrives when the trouble is over.
"""

import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.gates.common import figure, rounds, run

GROWTH_MIB = 64
SIZE = "24m"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own that is soon full."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("needs to mount a small file system: run as root on Linux")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def check(kind: str, folder: Path) -> None:
    told = run("away.py", kind, folder, rounds(3, 60), timeout_s=300)
    figure(f"2-{kind}", **told)
    assert told["same"]
    assert told["growth_mib"] <= GROWTH_MIB
    assert told["failed"] == told["waiting"] == told["spooled"] == 0
    assert told["accepted"] == told["written"]
    assert told["accepted"] + told["dropped"] == told["records"]
    assert told["records"] > 1000


def test_a_locked_store(tmp_path: Path) -> None:
    check("locked", tmp_path)


def test_a_full_disk(small_disk: Path) -> None:
    check("full", small_disk)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs to become a user who may not write")
def test_a_read_only_store() -> None:
    with tempfile.TemporaryDirectory(prefix="rwml-gate-") as base:
        Path(base).chmod(0o711)  # the other user has to get in
        store = Path(base) / "store"
        store.mkdir()
        check("readonly", store)
