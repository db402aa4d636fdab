"""Gate 1, as a program of its own: records without an end, and says what is acknowledged.

`killed_writer STORE NAME WAY`: prints ``ack N`` after each flush that returned True: the first N
steps of trajectory NAME are then promised. It ends by a signal, or in the way that is named:
``loop`` (never), ``exit`` (after 500 steps), ``thread`` (sys.exit in a thread after 500 steps).
"""

from __future__ import annotations

import sys
import threading

from rwml import Recorder
from rwml.records import StepRecord
from rwml.schema import Message, Step, Trajectory

BATCH = 100
TEXT = "x" * 50


def main(url: str, name: str, way: str) -> None:
    """Records until the end that is named."""
    recorder = Recorder(store=url)
    recorder.record_header(Trajectory(id=name, source="gate"))
    number = 0

    def record() -> None:
        nonlocal number
        action = Message(role="assistant", content=f"{name} {number} {TEXT}")
        recorder.put(StepRecord(name, Step(index=number, action=action)))
        number += 1

    while way == "loop":
        for _ in range(BATCH):
            record()
        if recorder.flush(30):
            sys.stdout.write(f"ack {number}\n")
            sys.stdout.flush()
    for _ in range(500):
        record()
    if way == "thread":
        thread = threading.Thread(target=sys.exit)
        thread.start()
        thread.join()
        sys.exit()


if __name__ == "__main__":
    main(*sys.argv[1:])
