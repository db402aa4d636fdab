"""What a diagnosis consists of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Status = Literal["ok", "warning", "error"]


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        name: short and fixed, for programs.
        status: ``error`` where nothing can be recorded or learnt like this.
        text: what was found.
        hint: what to do; empty where there is nothing to do.
    """

    name: str
    status: Status
    text: str
    hint: str = ""
