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
"""Side of the split; the rows of ``validation`` are the held-out ones."""
HeldOut = Literal["hash band", "nearest to the band"]


def hash_share(group: str) -> float:
    """Place of a group in [0, 1), by its name alone (SHA-256; ours)."""
    digest = hashlib.sha256(group.encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def split_groups(
    groups: Iterable[str], *, validation_share: float
) -> tuple[dict[str, Split], HeldOut]:
    """Assigns each group (a task, a thread, or a trajectory without either) to a side.

    A group is held out when its hash lies in the lowest ``validation_share`` of [0, 1); such a
    group is never trained on. Where no group lies there, the nearest one is held out, so that
    something can be evaluated.

    Returns:
        The side of each group, and how the held-out ones were chosen.

    Raises:
        DatasetError: nothing is left to train on, or there is nothing to hold out.
    """
    ordered = sorted(set(groups), key=hash_share)
    in_band = sum(hash_share(group) < validation_share for group in ordered)
    held_out = max(in_band, 1)
    if len(ordered) <= held_out:
        raise DatasetError(
            f"{len(ordered)} task(s), of which {held_out} must be held out, leave none to train "
            f"on: record more tasks"
        )
    sides: dict[str, Split] = {
        group: "validation" if place < held_out else "train" for place, group in enumerate(ordered)
    }
    return sides, "hash band" if in_band else "nearest to the band"
