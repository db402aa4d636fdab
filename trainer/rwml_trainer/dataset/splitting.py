"""Splits by task, by a hash: the same task is held out in every round of training.

A random split would move tasks between train and validation when new traffic arrives, and a model
would be judged on what an earlier round trained it on.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Literal

from rwml.errors import DatasetError

Split = Literal["train", "validation"]


def hash_share(group: str) -> float:
    """Place of a group in [0, 1), by its name alone (SHA-256; ours)."""
    digest = hashlib.sha256(group.encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def split_groups(groups: Iterable[str], *, validation_share: float) -> dict[str, Split]:
    """Assigns each group (a task, or a trajectory without one) to a side.

    A group is held out when its hash lies in the lowest ``validation_share``. With few groups a
    side may come out empty: then the group nearest to the border changes sides.

    Raises:
        DatasetError: fewer than two groups: nothing can be held out.
    """
    ordered = sorted(set(groups), key=hash_share)
    if len(ordered) < 2:
        raise DatasetError(
            f"only {len(ordered)} task with usable transitions: record at least 2, "
            f"so that one can be held out"
        )
    held_out = sum(hash_share(group) < validation_share for group in ordered)
    held_out = min(max(held_out, 1), len(ordered) - 1)
    return {
        group: "validation" if place < held_out else "train" for place, group in enumerate(ordered)
    }
