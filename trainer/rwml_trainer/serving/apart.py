"""An engine of a version, apart from any server: for a gate, which asks it before it is served."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from rwml.files import make_private
from rwml_trainer.serving.engine import Engine, StartEngine
from rwml_trainer.serving.fleet import ENGINES
from rwml_trainer.serving.folders import check_model_folder
from rwml_trainer.serving.registry import Version, check_unchanged
from rwml_trainer.serving.starting import ENGINE_GRACE_S

GATES = "gates"
START_TIMEOUT_S = 600.0
"""As long as a server gives its engines."""


@contextmanager
def engine_of(version: Version, start_engine: StartEngine, folder: Path) -> Iterator[Engine]:
    """An engine on loopback that is up; it ends with the block.

    Args:
        version: that it runs.
        start_engine: starts it.
        folder: serving folder, which keeps the log.

    Raises:
        ModelError: the weights are not those that were added, or the folder is unsafe.
        ServingError: it did not come up.
    """
    check_unchanged(version)
    check_model_folder(Path(version.folder))
    work = folder.resolve() / GATES / ENGINES / f"{version.id}-{datetime.now(UTC):%Y%m%dT%H%M%S%f}"
    make_private(work)
    engine = start_engine(version, work)
    try:
        engine.wait(time.monotonic() + START_TIMEOUT_S)
        yield engine
    finally:
        engine.process.stop(ENGINE_GRACE_S)
