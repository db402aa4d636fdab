"""Reading: the memory that streaming a large store takes, against streaming a small one."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from tests.benchmarks.measure import Result

from rwml import open_store
from rwml.store.batches import Batch, header_row, step_row
from rwml.testing import make_trajectory

TRANSITIONS = 1_000_000
FEW = 10_000
LENGTH = 99
"""Tool calls of a trajectory; a question to the user makes it a hundred steps."""

_READ = """
import sys
from tests.benchmarks.measure import peak_mib
from rwml import open_store
with open_store(sys.argv[1], create=False) as store:
    number = sum(1 for _ in store.transitions(history=4))
print(number, peak_mib())
"""


def read_stream_mib() -> Result:
    """Peak memory in MiB of a process that streams a million transitions, and of one with few."""
    with tempfile.TemporaryDirectory() as folder:
        value = _peak_mib(Path(folder) / "large.db", TRANSITIONS)
        baseline = _peak_mib(Path(folder) / "small.db", FEW)
    return Result("read_stream_mib", value, "MiB", baseline, value / baseline)


def _peak_mib(path: Path, transitions: int) -> float:
    url = fill_store(path, transitions)
    number, peak = run_script(_READ, url)
    if int(number) != transitions:
        raise RuntimeError(f"read {number} transitions, not {transitions}")
    return peak


def fill_store(path: Path, transitions: int) -> str:
    """Makes a store of conversations of a hundred steps; returns its URL."""
    url = f"sqlite:///{path}"
    with open_store(url) as store:
        for first in range(0, transitions // (LENGTH + 1), 100):
            batch = Batch()
            for task in range(first, first + 100):
                trajectory = make_trajectory(task, length=LENGTH)
                batch.headers.append(header_row(trajectory))
                batch.steps += [step_row(trajectory.id, step) for step in trajectory.steps]
            store.write_batch(batch)
    return url


def run_script(script: str, *arguments: str) -> tuple[int, float]:
    """The number and the peak memory in MiB that a script prints, from a process of its own."""
    ended = subprocess.run(
        [sys.executable, "-c", script, *arguments], check=True, capture_output=True, text=True
    )
    number, peak = ended.stdout.split()
    return int(number), float(peak)
