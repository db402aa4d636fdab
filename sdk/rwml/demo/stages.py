"""Runs stages once: a stage that is whole is not run again, and a change reruns what follows it.

A stage's marker ``stages/NAME.json`` is written after it succeeded. It holds a key: a hash of what
the stage was told to do and of the key of the stage before it. ``stages/NAME.started`` holds the
key of the last try: what an interrupted try of something else left is removed before a new one.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from pydantic import JsonValue

from rwml.cli.output import say
from rwml.demo.memory import PeakMemory
from rwml.errors import RwmlError, ServingError, UsageError
from rwml.files import write_json

Result = dict[str, JsonValue]


class Stages:
    """The stages of one demo folder, in order.

    Attributes:
        seconds: time of all stages so far, reused ones included.
        peak_rss_mib: highest memory of any stage so far.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.seconds = 0.0
        self.peak_rss_mib = 0
        self._key = ""

    def run(
        self,
        name: str,
        title: str,
        work: Callable[[], Result],
        *,
        told: Sequence[str],
        reset: Callable[[], None] = lambda: None,
    ) -> Result:
        """Runs a stage, or returns its earlier result.

        Args:
            name: of the marker.
            title: for people.
            work: does it and returns its result.
            told: what the stage depends on, besides the stages before it.
            reset: removes what an earlier, different try of the stage left.
        """
        self._key = hashlib.sha256("\0".join([self._key, name, *told]).encode()).hexdigest()
        path = self.folder / "stages" / f"{name}.json"
        marker = self._read(path)
        if marker is None or marker["key"] != self._key:
            path.unlink(missing_ok=True)
            begun = path.with_suffix(".started")
            if not begun.is_file() or begun.read_text(encoding="utf-8") != self._key:
                reset()
            path.parent.mkdir(parents=True, exist_ok=True)
            begun.write_text(self._key, encoding="utf-8")
            say(f"== {title}")
            started = time.monotonic()
            with PeakMemory() as memory:
                result = work()
            marker = {
                "key": self._key,
                "seconds": round(time.monotonic() - started, 1),
                "peak_rss_mib": memory.mib,
                "result": result,
            }
            write_json(path, marker)
            say(f"   done in {marker['seconds']} s")
        else:
            say(f"== {title}: already done")
        self.seconds += float(marker["seconds"])  # type: ignore[arg-type]  # we wrote a number
        self.peak_rss_mib = max(self.peak_rss_mib, int(marker["peak_rss_mib"]))  # type: ignore[arg-type]
        return marker["result"]  # type: ignore[return-value]  # we wrote an object

    @staticmethod
    def _read(path: Path) -> Result | None:
        if not path.is_file():
            return None
        try:
            marker = json.loads(path.read_text(encoding="utf-8"))
            return marker if {"key", "seconds", "peak_rss_mib", "result"} <= set(marker) else None
        except (ValueError, TypeError):
            return None


def rwml_command(arguments: Sequence[str]) -> list[str]:
    """The command line of another rwml command, in this interpreter; it ends when we do."""
    launcher = [sys.executable, "-m", "rwml.launcher", str(os.getpid())]
    return [*launcher, sys.executable, "-m", "rwml", *arguments]


def run_json(arguments: Sequence[str]) -> Result:
    """Runs an rwml command with ``--json`` and returns its object; its progress shows on stderr.

    Raises:
        UsageError: the command said that it was called wrongly (exit code 2).
        RwmlError: it failed in another way.
    """
    done = subprocess.run(  # noqa: S603 - our own program, no shell
        rwml_command([*arguments, "--json"]), stdout=subprocess.PIPE, text=True, check=False
    )
    if done.returncode:
        kind = {2: UsageError, 3: ServingError}.get(done.returncode, RwmlError)
        raise kind(
            f"'rwml {' '.join(arguments[:2])}' failed (exit code {done.returncode}); "
            f"its last words are above"
        )
    try:
        return json.loads(done.stdout)
    except ValueError as error:
        raise RwmlError(f"'rwml {' '.join(arguments[:2])}' printed no JSON") from error
