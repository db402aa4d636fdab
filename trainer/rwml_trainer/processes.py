"""The processes of one training: the first one looks and writes, the others are told.

A training of one process, which is the usual case, passes through here untouched. Several are
started by `accelerate launch`, see `rwml_trainer.launch`; they share one file system.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


def process_count() -> int:
    """How many processes train together, on all nodes, as their launcher says."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_first() -> bool:
    """Whether this process is the one that writes."""
    return int(os.environ.get("RANK", "0")) == 0


def on_first(work: Callable[[], T]) -> T:
    """Does something in the first process; each process gets what came of it, or its error.

    All processes must call it, in the same order; it is a barrier too.

    Args:
        work: what is to be done; its result and its errors can be pickled.
    """
    if process_count() == 1:
        return work()
    from accelerate.utils import broadcast_object_list

    _join()
    told: list[Any] = [None, None]
    if is_first():
        try:
            told[0] = work()
        except Exception as error:  # noqa: BLE001  # each process raises it
            told[1] = error
    broadcast_object_list(told)
    result, error = told
    if error is not None:
        raise error
    return result


def leave() -> None:
    """Ends the group of processes; what they did together is done."""
    if process_count() > 1:
        _join().destroy_process_group()


def _join() -> Any:
    """Meets the other processes, on this process's own GPU where there is one."""
    import torch
    from accelerate import PartialState

    return PartialState(cpu=not torch.cuda.is_available())
