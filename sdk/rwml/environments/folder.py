"""The folder of an evaluation: what it was asked for, one line per episode, the report.

A line is durable before the next episode is taken, so that whatever ends the program keeps what is
done; the last line may be torn, and its episode is played again. Trajectories stand in it without
what must not be stored. One program at a time writes here. Source: ours.
"""

from __future__ import annotations

import json
import os
import secrets
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from filelock import FileLock, Timeout
from pydantic import JsonValue

from rwml.environments.results import Result
from rwml.environments.running import Finished
from rwml.errors import RedactionError, UsageError
from rwml.files import write_json
from rwml.redaction import Redaction, redact_model
from rwml.schema import Trajectory

SETTINGS, RESULTS, REPORT, CHART = "settings.json", "results.jsonl", "report.json", "report.png"
SHOWN_CHARS = 60
"""Of a setting in an error (ours)."""
_LOCK = ".lock"


class Kept(NamedTuple):
    """An episode of the folder; without its trajectory where that could not be redacted."""

    result: Result
    trajectory: Trajectory | None


class ResultsFolder:
    """An evaluation's folder, held for writing until it is closed.

    Args:
        folder: made where it is missing.
        settings: of the run: what must be the same for a run to be resumed.
        resume: go on with what the folder has.

    Raises:
        UsageError: it holds results and is not to be resumed, or results of other settings, or
            another program writes to it.
    """

    def __init__(self, folder: Path, *, settings: Mapping[str, JsonValue], resume: bool) -> None:
        if folder.exists() and not folder.is_dir():
            raise UsageError(f"{folder} is a file: name a folder")
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder
        self._redaction = Redaction().for_source(str(settings["source"]))
        self._key = secrets.token_bytes(32)
        self._lock = FileLock(folder / _LOCK)
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise UsageError(f"another program writes to {folder}: name another folder") from None
        try:
            self._begin(settings, resume=resume)
        except BaseException:
            self._lock.release()
            raise

    def kept(self) -> Iterator[Kept]:
        """The episodes that are finished; of one that was played again, the last."""
        latest = {kept.result.id: kept for kept in _read(self.path / RESULTS)}
        yield from (kept for kept in latest.values() if not kept.result.is_fault)

    def add(self, finished: Finished, result: Result) -> Kept:
        """Appends an episode, durably; returns it as it stands in the file."""
        trajectory = self._clean(finished.trajectory)
        line = {
            **result.to_json(),
            "seed": finished.episode.seed,
            "attempts": finished.attempts,
            "seconds": round(finished.seconds, 3),
            "trajectory": None if trajectory is None else trajectory.model_dump(mode="json"),
        }
        os.write(self._file, f"{json.dumps(line)}\n".encode())
        os.fsync(self._file)
        return Kept(result, trajectory)

    def write_report(self, report: Mapping[str, JsonValue]) -> None:
        """Writes the report, whole or not at all."""
        write_json(self.path / REPORT, report)

    def close(self) -> None:
        """Lets others write here."""
        os.close(self._file)
        self._lock.release()

    def _begin(self, settings: Mapping[str, JsonValue], *, resume: bool) -> None:
        file = self.path / SETTINGS
        if file.exists() and not resume:
            raise UsageError(
                f"{self.path} holds an evaluation: add --resume to go on with it, or name another "
                f"folder"
            )
        if file.exists():
            _check(read_settings(self.path), settings, self.path)
        else:
            write_json(file, settings)
        flags = os.O_APPEND | os.O_CREAT | os.O_RDWR
        self._file = os.open(self.path / RESULTS, flags, stat.S_IRUSR | stat.S_IWUSR)
        size = os.fstat(self._file).st_size
        if size and os.pread(self._file, 1, size - 1) != b"\n":
            os.write(self._file, b"\n")  # the last line was torn: the next one begins anew

    def _clean(self, trajectory: Trajectory) -> Trajectory | None:
        try:
            return redact_model(trajectory, self._redaction.session(key=self._key))
        except RedactionError:
            return None


def read_settings(folder: Path) -> dict[str, JsonValue]:
    """What an evaluation was asked for.

    Raises:
        UsageError: the folder has none, or it cannot be read.
    """
    file = folder / SETTINGS
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{folder} is no folder of an evaluation: {error}") from None
    if not isinstance(found, dict):
        raise UsageError(f"{file} holds no settings: name another folder")
    return found


def _read(file: Path) -> Iterator[Kept]:
    with file.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            try:
                fields = json.loads(line)
                trajectory = fields["trajectory"]
                yield Kept(
                    Result(**{name: fields[name] for name in Result.__dataclass_fields__}),
                    None if trajectory is None else Trajectory.model_validate(trajectory),
                )
            except (ValueError, TypeError, KeyError):  # torn: the episode is played again
                continue


def _check(before: Mapping[str, JsonValue], wanted: Mapping[str, JsonValue], folder: Path) -> None:
    flat_before, flat_wanted = _flat(before), _flat(wanted)
    for name in flat_wanted:
        if flat_before.get(name) != flat_wanted[name]:
            raise UsageError(
                f"{folder} was begun with {name} {_short(flat_before.get(name))}, not "
                f"{_short(flat_wanted[name])}: resume it with the same, or name another folder"
            )


def _flat(settings: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    """The settings, with the fingerprint's fields among them."""
    fingerprint = settings.get("fingerprint")
    own = {name: value for name, value in settings.items() if name != "fingerprint"}
    return {**(fingerprint if isinstance(fingerprint, dict) else {}), **own}


def _short(value: JsonValue) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= SHOWN_CHARS else f"{text[:SHOWN_CHARS]}..."
