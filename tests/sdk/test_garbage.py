"""What is recorded goes when it is done with, and does not wait for Python's collector of cycles.

The collector runs when there is much, so memory would rise and fall, and a little more stay each
time.
"""

import gc
from pathlib import Path

import pytest

from rwml import Recorder, preparation

EPISODES = 60


def record(recorder: Recorder, first: int) -> None:
    for number in range(first, first + EPISODES):
        with recorder.trajectory(id=f"t-{number}", source="memory") as t:
            call = {"id": "c", "function": {"name": "find", "arguments": {"page": number}}}
            t.act({"role": "assistant", "tool_calls": [call]})
            text = f"write to ann.{number}@x.example"
            t.observe({"role": "tool", "tool_call_id": "c", "content": text})
        assert recorder.flush(30)


def test_recording_makes_no_cycles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preparation, "KEPT_TRAJECTORIES", EPISODES // 2)
    with Recorder(store=f"sqlite:///{tmp_path / 'rwml.db'}") as recorder:
        record(recorder, 0)
        gc.collect()
        gc.disable()
        try:
            record(recorder, EPISODES)
            assert gc.collect() < EPISODES, "less than one object of each"
        finally:
            gc.enable()
