"""`rwml.instrument()`: one line that records every agent run of this process, and can be undone.

The sdk imports no framework. Integrations announce themselves in the entry-point group
``rwml.instrumentations``: each entry is a function that takes a `Recorder` and returns a function
that undoes it, and raises `MissingExtraError` where its framework is not installed.
"""

from __future__ import annotations

import atexit
import logging
import os
from collections.abc import Callable
from importlib.metadata import entry_points

from rwml.errors import AdapterError, MissingExtraError, RwmlError, UsageError
from rwml.recorder import Recorder
from rwml.store import Store

logger = logging.getLogger("rwml")

ENTRY_POINT_GROUP = "rwml.instrumentations"
STORE_VARIABLE = "RWML_STORE"
"""Environment variable with the store's URL, used where none is given."""

Instrument = Callable[[Recorder], Callable[[], None]]


class Instrumentation:
    """What `instrument` switched on.

    Attributes:
        recorder: the recorder behind it; its `flush` and `stats` tell what is durable.
        names: the integrations that are on.
    """

    def __init__(self, *, recorder: Recorder, undo: dict[str, Callable[[], None]]) -> None:
        self.recorder = recorder
        self.names = tuple(sorted(undo))
        self._undo = undo
        atexit.register(self.uninstrument)

    def uninstrument(self) -> None:
        """Stops recording, writes what is queued, and leaves the frameworks as they were."""
        atexit.unregister(self.uninstrument)
        try:
            while self._undo:
                self._undo.popitem()[1]()
        finally:
            self.recorder.close()

    def __enter__(self) -> Instrumentation:
        return self

    def __exit__(self, *_: object) -> None:
        self.uninstrument()


def instrument(*, store: str | Store | None = None) -> Instrumentation:
    """Records every run of the installed agent frameworks in this process.

    Args:
        store: a store or its URL; by default the environment variable ``RWML_STORE``.

    Returns:
        A handle whose `uninstrument` undoes it; it also works as a context manager.

    Raises:
        UsageError: no store was named.
        StoreError: the store cannot be opened.
        MissingExtraError: no supported framework is installed.
        AdapterError: no integration could be switched on.
    """
    target = store or os.environ.get(STORE_VARIABLE)
    if not target:
        raise UsageError(
            f"name a store: rwml.instrument(store='sqlite:///rwml.db') or set {STORE_VARIABLE}"
        )
    recorder = Recorder(store=target)
    undo: dict[str, Callable[[], None]] = {}
    failure: RwmlError | None = None
    for entry in entry_points(group=ENTRY_POINT_GROUP):
        try:
            start: Instrument = entry.load()
            undo[entry.name] = start(recorder)
        except MissingExtraError as error:
            failure = failure or error
        except Exception as error:  # noqa: BLE001 - a broken plug-in must not stop the others
            failure = AdapterError(f"integration {entry.name!r} could not be switched on: {error}")
            logger.warning("rwml: %s", failure)
    if not undo:
        recorder.close()
        raise failure or UsageError("no integration is installed: reinstall rwml")
    return Instrumentation(recorder=recorder, undo=undo)
