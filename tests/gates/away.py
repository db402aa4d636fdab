"""Gate 2, as a program of its own: an agent goes on while its store cannot be written.

`away.py KIND FOLDER SECONDS` records 1,000 records a second while the trouble lasts, then waits for
everything to arrive. KIND: locked, full (FOLDER is a small file system of its own), readonly.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import sys
import time
from collections.abc import Callable
from pathlib import Path

from rwml import Recorder, open_store

RATE = 1_000
RESULT = "A line of what the tool has found. " * 56  # 2 KB
ROOT = 0
NOBODY = 65534


def work(recorder: Recorder | None, number: int) -> str:
    """One step of the agent: its output does not depend on the recorder."""
    output = f"step {number}: {hash((number, len(RESULT)))}"
    if recorder is not None:
        with recorder.trajectory(id=f"t{number}", source="gate") as t:  # four records
            t.act({"role": "assistant", "content": output})
            t.observe({"role": "user", "content": f"{number} {RESULT}"})
    return output


def rss_mib() -> float:
    """Memory of this process, as of now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def begin_trouble(kind: str, path: Path) -> Callable[[], object]:
    """Lets the store fail; returns what ends it."""
    if kind == "locked":
        other = sqlite3.connect(path)
        other.execute("begin exclusive")
        return other.close
    ballast = path.parent / "ballast"
    with contextlib.suppress(OSError), ballast.open("wb") as file:
        while True:
            file.write(b"x" * 4096)
            file.flush()
    return ballast.unlink


def run_for(recorder: Recorder, seconds: float, start: int) -> tuple[list[str], float, float]:
    """Works at the rate; returns outputs, the largest growth of memory, and the slowest step."""
    outputs: list[str] = []
    first, most, slowest = rss_mib(), 0.0, 0.0
    began = time.monotonic()
    while (now := time.monotonic()) - began < seconds:
        due = int((now - began) * RATE / 4)
        while len(outputs) < due:
            before = time.perf_counter()
            outputs.append(work(recorder, start + len(outputs)))
            slowest = max(slowest, time.perf_counter() - before)
        most = max(most, rss_mib() - first)
        time.sleep(0.002)
    return outputs, most, slowest


def main(kind: str, folder: str, seconds: str) -> None:
    """Runs it, and prints one JSON object."""
    path = Path(folder) / "rwml.db"
    url = f"sqlite:///{path}"
    if kind == "readonly":
        open_store(url).close()
        for each in (*Path(folder).iterdir(), Path(folder)):
            os.chown(each, NOBODY, NOBODY)
            each.chmod(0o500 if each.is_dir() else 0o400)
        os.setuid(NOBODY)
    recorder = Recorder(store=url)
    if kind != "readonly":
        run_for(recorder, 1.0, 10**9)  # as warm as it gets
        assert recorder.flush(30), recorder.stats
    before = recorder.stats
    end_trouble = begin_trouble(kind, path) if kind != "readonly" else None
    outputs, growth_mib, slowest_s = run_for(recorder, float(seconds), 0)
    during = recorder.stats
    if end_trouble is None:
        for each in (Path(folder), *Path(folder).iterdir()):
            each.chmod(0o700 if each.is_dir() else 0o600)
    else:
        end_trouble()
    deadline = time.monotonic() + 120
    while (recorder.stats.waiting or recorder.stats.spooled) and time.monotonic() < deadline:
        time.sleep(0.02)
    after = recorder.stats
    recorder.close()
    with open_store(url, create=False) as store:
        counts = store.stats()
    told = {
        "same": outputs == [work(None, number) for number in range(len(outputs))],
        "records": 4 * len(outputs),
        "growth_mib": round(growth_mib, 1),
        "slowest_step_ms": round(1000 * slowest_s, 2),
        "written_during": during.written - before.written,
        "accepted": after.accepted - before.accepted,
        "dropped": after.dropped - before.dropped,
        "failed": after.failed,
        "waiting": after.waiting,
        "spooled": after.spooled,
        "written": after.written - before.written,
        "trajectories": counts.trajectories,
        "steps": counts.steps,
    }
    json.dump(told, sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])
