"""Where the tests find ALFWorld's games: ``ALFWORLD_DATA``, or the folder ``shared`` beside."""

import os
from contextlib import suppress
from pathlib import Path

import pytest

from rwml.errors import UsageError
from rwml_adapters.alfworld.games import DATA_VARIABLE, Game, find_games

BESIDE = Path(__file__).resolve().parents[3] / "shared" / "alfworld"


def games_at_hand(split: str) -> list[Game]:
    """The games of a split; none when there are no games, so that collecting tests works."""
    for folder in (os.environ.get(DATA_VARIABLE), BESIDE):
        with suppress(UsageError):
            return find_games(split, data=Path(folder or BESIDE))
    return []


def require_games(split: str) -> list[Game]:
    """The games of a split, or the test is skipped, with the reason."""
    games = games_at_hand(split)
    if not games:
        pytest.skip(f"no ALFWorld games: set {DATA_VARIABLE} (alfworld-download gets them)")
    return games
