"""Gate 1, as a program of its own: an instrumented program that is told to end by SIGTERM.

`terminated STORE`: says ``ready N`` when N records are accepted, and waits.
"""

from __future__ import annotations

import signal
import sys

import rwml
from rwml.records import StepRecord
from rwml.schema import Message, Step, Trajectory

if __name__ == "__main__":
    recorder = rwml.instrument(store=sys.argv[1]).recorder
    recorder.record_header(Trajectory(id="one", source="gate"))
    for number in range(2000):
        action = Message(role="assistant", content=f"one {number}" + "x" * 500)
        recorder.put(StepRecord("one", Step(index=number, action=action)))
    sys.stdout.write(f"ready {recorder.stats.accepted}\n")
    sys.stdout.flush()
    signal.pause()
