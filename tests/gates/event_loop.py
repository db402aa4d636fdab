"""Gate 6, as a program of its own: how long recording large texts stops an event loop.

`event_loop FOLDER KIND REDACT ROUNDS STORE` prints the largest gap between the ticks of a loop that
wakes every millisecond, while a task records tool results of 10 MB, and the same of a control run
without recording. KIND: ascii, escapes, other, personal. REDACT: none or default. STORE: there, or
away, so that records wait in the spool. A gap also grows while other programs have the processor,
so of each gap it also says how much of it this process was at work: the processor time of the
loop's thread and the writer's (``work_ms``), which is what is gated.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from rwml import Recorder, open_store
from rwml.recorder import DEFAULT_REDACTION

SIZE = 10_000_000
TICK_S = 0.001
PIECES = {
    "ascii": "the order of customer {n} was delivered on day {n}; nothing else to be said. ",
    "escapes": '{{"line": "a\\n\\t\\"quoted\\" \\\\ path {n}"}}\n',
    "other": "Größe {n} über Zürich → 東京 {n} ✓ 😀 ",
    "personal": "Größe über Zürich → 東京 ✓ 😀 " * 50 + "customer.{n}@x.example ",
}


def make_text(kind: str, seed: int) -> str:
    """A text of about ten megabytes, of which no two pieces are alike."""
    pieces: list[str] = []
    size = number = 0
    while size < SIZE:
        pieces.append(PIECES[kind].format(n=seed * 1_000_000 + number))
        size += len(pieces[-1].encode())
        number += 1
    return "".join(pieces)


def work_s() -> float:
    """Processor time of this thread and the writer's."""
    clocks = [
        time.pthread_getcpuclockid(thread.ident)
        for thread in threading.enumerate()
        if thread.ident and (thread.name == "rwml-writer" or thread is threading.main_thread())
    ]
    return sum(time.clock_gettime(clock) for clock in clocks)


async def tick(gaps: list[tuple[float, float]], stop: asyncio.Event) -> None:
    """Notes how much later than asked for the loop came back, and what was worked meanwhile."""
    while not stop.is_set():
        before, worked = time.perf_counter(), work_s()
        await asyncio.sleep(TICK_S)
        gap = max(0.0, time.perf_counter() - before - TICK_S)
        gaps.append((gap, min(gap, work_s() - worked)))


async def watched(recorder: Recorder | None, texts: list[str]) -> list[tuple[float, float]]:
    """The gaps while all texts are recorded and written."""
    gaps: list[tuple[float, float]] = []
    stop = asyncio.Event()
    ticking = asyncio.create_task(tick(gaps, stop))
    await asyncio.sleep(0.05)
    for number, text in enumerate(texts):
        if recorder is None:
            await asyncio.sleep(0.5)
            continue
        call = {"id": "c", "function": {"name": "read", "arguments": {"n": number}}}
        with recorder.trajectory(source="gate") as t:
            t.act({"role": "assistant", "tool_calls": [call]})
            t.observe({"role": "tool", "tool_call_id": "c", "content": text})
        while recorder.stats.waiting:
            await asyncio.sleep(0.005)
    stop.set()
    await ticking
    return gaps


def told(gaps: list[tuple[float, float]]) -> dict[str, float]:
    """The largest gap and the most work in one, in milliseconds."""
    return {
        "gap_ms": round(1000 * max(gap for gap, _ in gaps), 2),
        "work_ms": round(1000 * max(work for _, work in gaps), 2),
        "ticks": len(gaps),
    }


@contextmanager
def store_of(folder: str, state: str) -> Iterator[str]:
    """URL of a store that can be written, or not."""
    path = Path(folder) / "loop.db"
    url = f"sqlite:///{path}"
    if state == "there":
        yield url
        return
    open_store(url).close()
    with closing(sqlite3.connect(path)) as other:
        other.execute("begin exclusive")
        yield url


def main(folder: str, kind: str, redact: str, rounds: str, state: str) -> None:
    """Measures, and prints one JSON object."""
    texts = [make_text(kind, seed) for seed in range(int(rounds))]
    control = asyncio.run(watched(None, texts))
    with (
        store_of(folder, state) as url,
        Recorder(store=url, redact=None if redact == "none" else DEFAULT_REDACTION) as recorder,
    ):
        gaps = asyncio.run(watched(recorder, texts))
        stats = recorder.stats
    done = stats.written if state == "there" else stats.spooled
    assert stats.accepted == done == 4 * len(texts), stats
    json.dump({"recording": told(gaps), "control": told(control)}, sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])
