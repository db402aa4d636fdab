"""Gate 8: a recorder that has run for an hour holds no more memory than one that has warmed up."""

from __future__ import annotations

import os
from pathlib import Path

from tests.gates.common import IS_FULL, figure, rounds, run

from rwml.preparation import KEPT_TRAJECTORIES

SECONDS = float(os.environ.get("RWML_SOAK_SECONDS") or rounds(8, 3600))
SLOPE_MIB = 1.0
"""Growth an hour. Of a shorter run it is only told: a slope of seconds says nothing of hours."""


def test_memory_stays_where_it_is(tmp_path: Path) -> None:
    seen = run(
        "soak",
        f"sqlite:///{tmp_path / 'rwml.db'}",
        *("--seconds", SECONDS),
        *("--rate", rounds(400, 50)),
        *("--warm", rounds(100, 40_000)),
        *("--out", tmp_path / "soak.json"),
        timeout_s=SECONDS + 900,
    )
    figure("8_soak", **{name: value for name, value in seen.items() if name != "curve_mib"})
    assert seen["is_done"]
    assert (seen["lost"], seen["written"]) == (0, seen["accepted"])
    assert seen["kept_trajectories"] <= KEPT_TRAJECTORIES
    if IS_FULL and SECONDS >= 1800:
        assert seen["slope_mib_per_h_second_half"] <= SLOPE_MIB, seen
