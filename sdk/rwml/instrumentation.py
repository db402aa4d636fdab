"""`rwml.instrument()`: one line that records every agent run of this process, and can be undone.

The sdk imports no framework. Integrations announce themselves in the entry-point group
``rwml.instrumentations``: each entry is a function that takes a `Recorder` and returns a function
that undoes it, and raises `MissingExtraError` where its framework is not installed. What the call
leaves open comes from the environment (`rwml.settings`). With ``RWML_DISABLED=1`` nothing may be
opened, hooked or written.
"""

from __future__ import annotations

import atexit
import logging
from collections.abc import Callable, Sequence
from importlib.metadata import entry_points
from typing import Any, Literal

from rwml.capture import Capture
from rwml.ending import close_on_sigterm
from rwml.errors import AdapterError, MissingExtraError, RwmlError, UsageError
from rwml.recorder import Recorder
from rwml.redaction import Redactor, redact_secrets
from rwml.retention import Retention
from rwml.settings import Settings, from_environment, is_disabled
from rwml.store import Store
from rwml.telemetry import observe

logger = logging.getLogger("rwml")

ENTRY_POINT_GROUP = "rwml.instrumentations"

Instrument = Callable[[Recorder], Callable[[], None]]
Redact = Redactor | None | Literal["default"]


class Instrumentation:
    """What `instrument` switched on.

    Attributes:
        recorder: the recorder behind it; its `flush` and `stats` tell what is durable.
        names: the integrations that are on; none where recording is disabled.
    """

    def __init__(
        self,
        *,
        recorder: Recorder,
        undo: dict[str, Callable[[], None]],
        afterwards: Sequence[Callable[[], None]] = (),
    ) -> None:
        self.recorder = recorder
        self.names = tuple(sorted(undo))
        self._undo = undo
        self._afterwards = list(afterwards)
        atexit.register(self.uninstrument)

    def uninstrument(self) -> None:
        """Stops recording, writes what is queued, and leaves the frameworks as they were."""
        atexit.unregister(self.uninstrument)
        try:
            while self._undo:
                self._undo.popitem()[1]()
        finally:
            self.recorder.close()
            while self._afterwards:
                self._afterwards.pop()()

    def __enter__(self) -> Instrumentation:
        return self

    def __exit__(self, *_: object) -> None:
        self.uninstrument()


def instrument(
    *,
    store: str | Store | None = None,
    capture: Capture | None = None,
    retention: Retention | None = None,
    redact: Redact = "default",
    metrics: bool | None = None,
) -> Instrumentation:
    """Records every run of the installed agent frameworks in this process.

    What is not given here is taken from the environment; see `rwml.settings.Settings` for the
    variables. A `capture` or `retention` that is given counts as a whole.

    Args:
        store: a store or its URL; by default ``RWML_STORE``.
        capture: which trajectories are taken, and what of them is left out; by default all.
        retention: how long they are kept; by default for any time.
        redact: as for `Recorder`; None stores all as it is.
        metrics: True shows the recorder's counters to OpenTelemetry (`rwml.telemetry`), through
            the meter provider of this program; by default they are not shown.

    Returns:
        A handle whose `uninstrument` undoes it; it also works as a context manager. With
        ``RWML_DISABLED=1`` it is one that records nothing.

    Raises:
        UsageError: no store was named, or a variable of the environment cannot be read.
        StoreError: the store cannot be opened.
        MissingExtraError: no supported framework is installed, or metrics are wanted without
            OpenTelemetry.
        AdapterError: no integration could be switched on.
    """
    if is_disabled():
        logger.info("rwml: RWML_DISABLED is set: nothing is recorded")
        return Instrumentation(recorder=Recorder(store=store or ""), undo={})
    settings = from_environment()
    target = store or settings.store
    if not target:
        raise UsageError(
            "name a store: rwml.instrument(store='sqlite:///rwml.db') or set RWML_STORE"
        )
    recorder = Recorder(store=target, **choose_settings(settings, capture, retention, redact))
    try:
        wants_metrics = settings.metrics if metrics is None else metrics
        afterwards = [observe(recorder)] if wants_metrics else []
        undo = _switch_on(recorder)
    except BaseException:
        recorder.close()
        raise
    afterwards.append(close_on_sigterm(recorder.close, is_busy=lambda: recorder.is_in_use_here))
    return Instrumentation(recorder=recorder, undo=undo, afterwards=afterwards)


def choose_settings(
    settings: Settings, capture: Capture | None, retention: Retention | None, redact: Redact
) -> dict[str, Any]:
    """What the recorder is told besides the store; what nobody said is left to it."""
    chosen: dict[str, Any] = {
        "capture": capture or settings.capture,
        "retention": retention or settings.retention,
        "spool": settings.spool,
    }
    for name, given in (("capture", capture), ("retention", retention)):
        if given is not None and getattr(settings, name) is not None:
            logger.warning("rwml: %s= was given: what the environment says of it is not used", name)
    chosen = {name: value for name, value in chosen.items() if value is not None}
    if redact != "default":
        chosen["redact"] = redact
    elif settings.redact in ("secrets", "none"):
        chosen["redact"] = redact_secrets if settings.redact == "secrets" else None
    return chosen


def _switch_on(recorder: Recorder) -> dict[str, Callable[[], None]]:
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
        raise failure or UsageError("no integration is installed: reinstall rwml")
    return undo
