"""Gate 8, as a program of its own: records at a steady rate and watches the process's memory.

`python -m tests.gates.soak STORE --seconds 3600 --out FILE` writes FILE again every minute, so that
a run that is broken off has told what it saw. Memory is measured after a warm-up at full speed,
which fills every cache to its bound and turns it over: of 60,000 episodes one after the other the
first 24,000 added memory, and the others none. What grows after that grows without an end.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from rwml import Recorder

RECORDS_OF_ONE = 10
"""Records that `record_one` makes: two headers and four steps, each pending and then complete."""
SAMPLE_S = 1.0
REPORT_S = 60.0
PIECE = (
    "order #W{number:07}: delivered, total {total:.2f} EUR; contact customer.{number}@x.example; "
)


def rss_mib() -> float:
    """Memory that this process holds, in MiB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def record_one(recorder: Recorder, number: int) -> None:
    """One episode of four steps with results of 2 KB."""
    text = "".join(PIECE.format(number=number + n, total=n + 0.5) for n in range(24))
    with recorder.trajectory(id=f"soak-{os.getpid()}-{number}", source="soak") as t:
        for index in range(4):
            call = {"id": f"c{index}", "function": {"name": "find", "arguments": {"page": index}}}
            t.act({"role": "assistant", "tool_calls": [call]}, model="scripted")
            t.observe({"role": "tool", "tool_call_id": f"c{index}", "content": text})


def slope_per_hour(samples: list[tuple[float, float]]) -> float:
    """Least-squares slope of (seconds, MiB), in MiB an hour."""
    middle = sum(at for at, _ in samples) / len(samples)
    mean = sum(mib for _, mib in samples) / len(samples)
    above = sum((at - middle) * (mib - mean) for at, mib in samples)
    below = sum((at - middle) ** 2 for at, _ in samples)
    return 3600 * above / below if below else 0.0


def ticks(seconds: float, rate: float) -> Iterator[tuple[int, float]]:
    """Number and time of each episode, when it is due."""
    started, number = time.monotonic(), 0
    while (passed := time.monotonic() - started) < seconds:
        due = number * RECORDS_OF_ONE / rate
        if due > passed:
            time.sleep(min(due - passed, seconds - passed))
            continue
        yield number, passed
        number += 1


def soak(recorder: Recorder, *, seconds: float, rate: float, warm: int, out: Path) -> dict:
    """Warms up, then records for `seconds`; returns what was seen."""
    for number in range(warm):
        record_one(recorder, -1 - number)
        if not recorder.flush(60):  # each on its own, as later: batches of another size leave gaps
            raise SystemExit(f"the warm-up is not written: {recorder.stats}")
    samples: list[tuple[float, float]] = []
    next_report = REPORT_S
    seen: dict = {}
    for number, passed in ticks(seconds, rate):
        record_one(recorder, number)
        if not samples or passed - samples[-1][0] >= SAMPLE_S:
            samples.append((passed, rss_mib()))
        if passed >= next_report:
            next_report += REPORT_S
            seen = summary(recorder, samples, rate=rate, is_done=False)
            out.write_text(json.dumps(seen))
    recorder.flush(60)
    seen = summary(recorder, samples, rate=rate, is_done=True)
    out.write_text(json.dumps(seen))
    return seen


def summary(
    recorder: Recorder, samples: list[tuple[float, float]], *, rate: float, is_done: bool
) -> dict:
    """What is known so far; the second half's slope leaves out what the first one settled."""
    stats = recorder.stats
    half = samples[len(samples) // 2 :]
    step = max(1, len(samples) // 60)
    return {
        "is_done": is_done,
        "seconds": round(samples[-1][0], 1),
        "records_per_s": rate,
        "slope_mib_per_h": round(slope_per_hour(samples), 3),
        "slope_mib_per_h_second_half": round(slope_per_hour(half), 3),
        "first_mib": round(samples[0][1], 2),
        "last_mib": round(samples[-1][1], 2),
        "most_mib": round(max(mib for _, mib in samples), 2),
        "accepted": stats.accepted,
        "written": stats.written,
        "kept_trajectories": len(recorder._writer._preparation._open),
        "lost": stats.dropped + stats.failed + stats.errors,
        "curve_mib": [round(mib, 2) for _, mib in samples[::step]],
    }


def main() -> None:
    """Reads the command line and soaks."""
    parser = argparse.ArgumentParser()
    parser.add_argument("store")
    parser.add_argument("--seconds", type=float, default=3600)
    parser.add_argument("--rate", type=float, default=50, help="records per second")
    parser.add_argument("--warm", type=int, default=40_000, help="episodes before it is measured")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    with Recorder(store=given.store) as recorder:
        seen = soak(
            recorder, seconds=given.seconds, rate=given.rate, warm=given.warm, out=given.out
        )
    json.dump(seen, sys.stdout)


if __name__ == "__main__":
    main()
