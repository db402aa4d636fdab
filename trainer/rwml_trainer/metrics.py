"""Writes ``metrics.jsonl`` and moves the progress bar, from inside a transformers Trainer.

Of several processes only the first one does: the figures are those of all.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import JsonValue
from transformers import TrainerCallback

from rwml.cli.output import Advance, progress
from rwml.files import whole_file
from rwml_trainer.processes import is_first


class MetricsCallback(TrainerCallback):
    """One JSON line per log of the trainer, flushed at once."""

    def __init__(self, path: Path, *, stage: str, advance: Advance) -> None:
        self._path = path
        self._stage = stage
        self._advance = advance
        self.lines: list[dict[str, JsonValue]] = []

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        """Called by the trainer with the metrics of a step."""
        if not logs or "train_runtime" in logs:
            return
        if not is_first():
            return
        line = {"stage": self._stage, "step": int(state.global_step), **dict(logs)}
        self.lines.append(line)
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        shown = "reward" if "reward" in logs else "loss"
        self._advance(f"{shown} {float(logs.get(shown, 0)):.3f}")


@contextmanager
def watched(
    path: Path, *, stage: str, label: str, steps: int, done: int = 0
) -> Iterator[MetricsCallback]:
    """A callback for a training of `steps` steps, with a progress bar on stderr.

    Args:
        path: of the metrics file. Lines of this stage after `done`, which an interrupted try
            left there, are dropped, and so is a line that was cut.
        stage: part of each line.
        label: of the progress bar.
        steps: of the whole stage.
        done: steps that a checkpoint already holds.
    """
    if not is_first():
        yield MetricsCallback(path, stage=stage, advance=lambda note="": None)
        return
    if path.is_file():
        kept = [line for line in path.read_text(encoding="utf-8").splitlines() if line]
        kept = [line for line in kept if _holds(line, stage, done)]
        with whole_file(path, mode=0o666) as temporary:
            temporary.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
    with progress(label, total=steps) as advance:
        for _ in range(done):
            advance("resumed")
        yield MetricsCallback(path, stage=stage, advance=advance)


def _holds(line: str, stage: str, done: int) -> bool:
    try:
        values = json.loads(line)
    except ValueError:
        return False
    return values["stage"] != stage or values["step"] <= done
