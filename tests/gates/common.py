"""What the gates share: short or full rounds, figures, and programs that are watched."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rwml import open_store

ROOT = Path(__file__).parents[2]
FIGURES = ROOT / "build" / "gates"
IS_FULL = os.environ.get("RWML_SOAK") == "1"
"""Whether this is `make soak`: full rounds, and figures that depend on time are held to bounds."""


def rounds(short: int, full: int) -> int:
    """How many rounds this run takes."""
    return full if IS_FULL else short


def figure(gate: str, **values: Any) -> None:
    """Keeps what a gate measured, for the table of `make soak`."""
    folder = FIGURES / ("full" if IS_FULL else "short")
    folder.mkdir(parents=True, exist_ok=True)
    told = {"gate": gate, "full": IS_FULL, **values}
    (folder / f"{gate}.json").write_text(json.dumps(told, indent=1))


def command(program: str, *arguments: object) -> list[str]:
    """The command line of a program in this folder."""
    module = f"tests.gates.{program.removesuffix('.py')}"
    return [sys.executable, "-m", module, *map(str, arguments)]


def environment(**more: str) -> dict[str, str]:
    """This process's environment, but not pytest's: errors must be swallowed as in production."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return kept | {"PYTHONPATH": path} | more


def run(program: str, *arguments: object, timeout_s: float = 240, **more: str) -> dict[str, Any]:
    """Runs a program to its end; it must end well. Returns the JSON of its last line."""
    ended = subprocess.run(
        command(program, *arguments),
        env=environment(**more),
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr[-4000:] + ended.stdout[-2000:]
    return json.loads(ended.stdout.splitlines()[-1])


def wait_until(is_so: Callable[[], bool], *, timeout_s: float = 60, what: str = "it") -> None:
    """Waits for a condition."""
    deadline = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < deadline, f"{what} did not happen in {timeout_s:.0f} s"
        time.sleep(0.02)


def texts(url: str) -> Mapping[str, list[str]]:
    """Texts of the actions in a store by trajectory; every body is validated on the way."""
    with open_store(url, create=False) as store:
        return {
            trajectory.id: [step.action.content or "" for step in trajectory.steps]
            for trajectory in store.trajectories()
        }
