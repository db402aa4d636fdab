"""Finds ALFWorld's games on disk: splits, task types, and the games ALFWorld itself leaves out.

Only names and the end of each file are read, so that thousands of games are listed in a second;
nothing is written and no game is opened here. Source: alfworld's ``AlfredTWEnv``.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from rwml.errors import AdapterError, UsageError

SPLITS = ("train", "valid_train", "valid_seen", "valid_unseen")
"""Official splits; valid_seen has rooms of the training games, valid_unseen rooms of its own."""

TASK_TYPES = (
    "pick_and_place_simple",
    "look_at_obj_in_light",
    "pick_clean_then_place_in_recep",
    "pick_heat_then_place_in_recep",
    "pick_cool_then_place_in_recep",
    "pick_two_obj_and_place",
)
DATA_VARIABLE = "ALFWORLD_DATA"
GAME_FILE = "game.tw-pddl"

_RELEASES = ("json_2.1.1",)
_UNSUPPORTED = ("movable", "Sliced")
_TAIL_BYTES = 64
_SOLVABLE = re.compile(rb'"solvable":\s*(true|false)\s*\}\s*\Z')


@dataclass(frozen=True, kw_only=True)
class Game:
    """One game file.

    Attributes:
        id: folder of the task and of the trial, ``pick_...-Mug-None-Desk-308/trial_T...``.
        split: the official split.
        task_type: one of `TASK_TYPES`.
        file: path of its ``game.tw-pddl``.
    """

    id: str
    split: str
    task_type: str
    file: Path


def data_folder(data: Path | None = None) -> Path:
    """The folder that holds the splits: `data`, or ``ALFWORLD_DATA``, or alfworld's default.

    Both the folder of the splits and its parent (where ``alfworld-download`` puts
    ``json_2.1.1``) are accepted.

    Raises:
        UsageError: there are no games in it.
    """
    named = data or os.environ.get(DATA_VARIABLE) or "~/.cache/alfworld"
    root = Path(named).expanduser()
    for folder in (root, *(root / release for release in _RELEASES)):
        if any((folder / split).is_dir() for split in SPLITS):
            return folder
    raise UsageError(
        f"no ALFWorld games in {root}: get them with 'alfworld-download', "
        f"or set {DATA_VARIABLE} to the folder that holds {_RELEASES[0]}"
    )


def find_games(
    split: str, *, data: Path | None = None, task_types: Collection[str] | None = None
) -> list[Game]:
    """The playable games of one split, by id.

    Left out, as alfworld does: games with movable receptacles or sliced objects, games of other
    task types, and games that are not known to be solvable.

    Args:
        split: one of `SPLITS`.
        data: where the games are; ``ALFWORLD_DATA`` by default.
        task_types: only these.

    Raises:
        UsageError: no such split or task type, or no games there.
    """
    if split not in SPLITS:
        raise UsageError(f"no split {split!r}: use one of {', '.join(SPLITS)}")
    wanted = set(task_types or TASK_TYPES)
    if unknown := sorted(wanted.difference(TASK_TYPES)):
        raise UsageError(f"no task type {unknown[0]!r}: use one of {', '.join(TASK_TYPES)}")
    root = data_folder(data)
    if not (root / split).is_dir():
        there = ", ".join(name for name in SPLITS if (root / name).is_dir())
        raise UsageError(
            f"no {split} games in {root} (it has {there}): get them with 'alfworld-download'"
        )
    games = [game for game in _games(root / split) if game.task_type in wanted]
    return sorted(games, key=lambda game: game.id)


def task_type_of(file: Path) -> str:
    """Task type of a game file, by its folder's name or the ``traj_data.json`` beside it.

    Raises:
        UsageError: neither says one of `TASK_TYPES`.
    """
    named = file.parent.parent.name.split("-", 1)[0]
    if named in TASK_TYPES:
        return named
    described = file.with_name("traj_data.json")
    try:
        said = json.loads(described.read_text(encoding="utf-8"))["task_type"]
    except (OSError, ValueError, KeyError, TypeError):
        said = None
    if said not in TASK_TYPES:
        raise UsageError(f"{file} is of no known task type: its folder or {described.name} says it")
    return said


def _games(folder: Path) -> Iterator[Game]:
    for file in folder.rglob(GAME_FILE):
        if any(word in str(file.parent) for word in _UNSUPPORTED):
            continue
        named = file.parent.parent.name.split("-", 1)[0]
        if named in TASK_TYPES and _solvable(file):
            identity = f"{file.parent.parent.name}/{file.parent.name}"
            yield Game(id=identity, split=folder.name, task_type=named, file=file)


def _solvable(file: Path) -> bool:
    """Whether the file says so; the flag is the last thing in the official files."""
    try:
        with file.open("rb") as opened:
            opened.seek(0, os.SEEK_END)
            opened.seek(max(0, opened.tell() - _TAIL_BYTES))
            found = _SOLVABLE.search(opened.read())
        if found is not None:
            return found[1] == b"true"
        return json.loads(file.read_bytes()).get("solvable") is True
    except (OSError, ValueError, AttributeError) as error:
        raise AdapterError(
            f"{file} cannot be read as a game: run 'alfworld-download' again"
        ) from error
