"""Gate 5, as a program of its own: many threads, tasks, processes and forks record at once.

`writers STORE WAY NUMBER STEPS [NAME]`: WAY is threads, tasks, or forks (a chain and a fan of
them, while a thread of the parent records). Each step's text names its trajectory and its place.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import threading

from rwml import Recorder

UNBOUNDED = 1 << 40
"""What is refused because too much waits is another gate's."""


def one(recorder: Recorder, name: str, steps: int) -> None:
    """A trajectory of one thread."""
    with recorder.trajectory(id=name, source="gate") as t:
        for number in range(steps):
            t.act({"role": "assistant", "content": f"{name} {number}"})
            t.observe({"role": "user", "content": f"{name} {number}!"})


async def one_task(recorder: Recorder, name: str, steps: int) -> None:
    """The same, with others in between."""
    with recorder.trajectory(id=name, source="gate") as t:
        for number in range(steps):
            t.act({"role": "assistant", "content": f"{name} {number}"})
            await asyncio.sleep(0)
            t.observe({"role": "user", "content": f"{name} {number}!"})
            await asyncio.sleep(0)


def in_threads(recorder: Recorder, name: str, number: int, steps: int) -> None:
    """`number` threads at once."""
    threads = [
        threading.Thread(target=one, args=[recorder, f"{name}-{place}", steps])
        for place in range(number)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


async def in_tasks(recorder: Recorder, name: str, number: int, steps: int) -> None:
    """`number` tasks at once."""
    tasks = (one_task(recorder, f"{name}-{place}", steps) for place in range(number))
    await asyncio.gather(*tasks)


def in_forks(recorder: Recorder, name: str, number: int, steps: int) -> None:
    """`number` children, eight at a time, while this process records in a thread."""
    stop = threading.Event()

    def go_on() -> None:
        place = 0
        while not stop.wait(0.005):
            one(recorder, f"{name}-parent-{place}", steps)
            place += 1

    thread = threading.Thread(target=go_on)
    thread.start()
    running: list[int] = []
    try:
        for place in range(number):
            child = os.fork()
            if not child:
                one(recorder, f"{name}-{place}", steps)
                # Nine writers want one lock and one disk: on a busy machine that takes its time.
                is_flushed = recorder.flush(120)
                recorder.close()
                stats = recorder.stats
                is_whole = is_flushed and stats.written == stats.accepted >= 2 * steps + 2
                if not is_whole:
                    os.write(2, f"{stats}\n".encode())
                os._exit(not is_whole)
            running.append(child)
            if len(running) == 8:
                wait(running.pop(0))
        for child in running:
            wait(child)
    finally:
        stop.set()
        thread.join()


def wait(child: int) -> None:
    """All of the child's own must be durable."""
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status == 0, status


def main(url: str, way: str, number: str, steps: str, name: str = "w") -> None:
    """Records, flushes, and prints the counters."""
    recorder = Recorder(store=url, queue_records=UNBOUNDED, queue_bytes=UNBOUNDED)
    if way == "threads":
        in_threads(recorder, name, int(number), int(steps))
    elif way == "tasks":
        asyncio.run(in_tasks(recorder, name, int(number), int(steps)))
    else:
        in_forks(recorder, name, int(number), int(steps))
    assert recorder.flush(300), recorder.stats
    stats = recorder.stats
    assert stats.written == stats.accepted, stats
    assert (stats.dropped, stats.errors) == (0, 0), stats
    json.dump({"written": stats.written}, sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])
