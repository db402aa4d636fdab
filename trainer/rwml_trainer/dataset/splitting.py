"""Splits by hashes: what is held out stays held out in every round of training.

A random split would move tasks between train and validation when new traffic arrives, and a model
would be judged on what an earlier round trained it on. Tasks in the held-out band are on no other
side, however the rest is split.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from rwml.errors import DatasetError

Split = Literal["train", "validation", "held_out"]
"""Side of the split; ``held_out`` is the band of tasks that no round ever trains on."""
SPLITS: tuple[Split, ...] = ("train", "validation", "held_out")
SplitBy = Literal["task", "row"]
HeldOut = Literal["hash band", "nearest to the band", "rows"]
_ROW_SALT = "row/"
"""Keeps a row's place from depending on its task's."""


def hash_share(group: str) -> float:
    """Place of a group in [0, 1), by its name alone (SHA-256; ours)."""
    digest = hashlib.sha256(group.encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


@dataclass(frozen=True)
class SplitPlan:
    """Which side each row is on.

    Attributes:
        sides: of the groups (a task, a thread, or a trajectory without either); by row, those in
            the held-out band are ``held_out`` and all others ``train``.
        held_out: how the validation rows were chosen.
        by: what is kept together.
        validation_share: by row, share of rows for validation.
    """

    sides: dict[str, Split]
    held_out: HeldOut
    by: SplitBy
    validation_share: float

    def side(self, group: str, row_id: str) -> Split | None:
        """The side of a row; None where its group was not there when the plan was made."""
        side = self.sides.get(group)
        if self.by == "row" and side == "train":
            return "validation" if self._is_validation(row_id) else "train"
        return side

    def _is_validation(self, row_id: str) -> bool:
        return hash_share(f"{_ROW_SALT}{row_id}") < self.validation_share


def plan_split(
    groups: Iterable[str],
    *,
    validation_share: float,
    held_out_share: float = 0.0,
    by: SplitBy = "task",
) -> SplitPlan:
    """Assigns groups, or by row their rows, to sides.

    A group is held out when its hash lies in the lowest `held_out_share` of [0, 1); by task, it is
    for validation when its hash lies in the next `validation_share`. Such groups are never trained
    on. Where no group lies there, the nearest one is taken for validation, so that something can
    be evaluated.

    Raises:
        DatasetError: nothing is left to train on, or there is nothing to hold out.
    """
    ordered = sorted(set(groups), key=hash_share)
    banded = sum(hash_share(group) < held_out_share for group in ordered)
    in_band = sum(hash_share(group) < held_out_share + validation_share for group in ordered)
    validation = 0 if by == "row" else max(in_band - banded, 1)
    apart = banded + validation
    if len(ordered) <= apart:
        raise DatasetError(
            f"{len(ordered)} task(s), of which {apart} must be held out, leave none to train "
            f"on: record more tasks"
        )
    sides: dict[str, Split] = {}
    for place, group in enumerate(ordered):
        held = "held_out" if place < banded else "validation"
        sides[group] = held if place < apart else "train"
    how: HeldOut = "hash band" if in_band > banded else "nearest to the band"
    return SplitPlan(sides, "rows" if by == "row" else how, by, validation_share)
