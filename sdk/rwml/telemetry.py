"""A recorder's counters as OpenTelemetry metrics, for whoever asks for them.

Only counters: no text that was recorded, no names. They go to the meter provider of the host
program, which decides whether anything leaves the process; rwml sets up no provider and no
exporter. Source: OpenTelemetry metrics API, asynchronous instruments.
"""

from __future__ import annotations

import functools
import threading
import weakref
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from rwml.extras import require

if TYPE_CHECKING:
    from opentelemetry.metrics import CallbackOptions, MeterProvider, Observation

    from rwml.recorder import Recorder

_COUNTERS = {
    "rwml.records.accepted": ("accepted", "{record}", "Records taken from integrations."),
    "rwml.records.written": ("written", "{record}", "Records that are durable in the store."),
    "rwml.records.failed": ("failed", "{record}", "Records not redacted or not written."),
    "rwml.records.skipped": ("skipped", "{record}", "Records left out by sampling or an opt-out."),
    "rwml.records.dropped": ("dropped", "{record}", "Records not taken: queue full, or closed."),
    "rwml.errors": ("errors", "{error}", "Errors inside recording, hidden from the agent."),
}
_GAUGES = {
    "rwml.queue.records": ("waiting", "{record}", "Records that wait for the writer."),
    "rwml.spool.records": ("spooled", "{record}", "Records on disk while the store is away."),
}


def observe(recorder: Recorder, meter_provider: MeterProvider | None = None) -> Callable[[], None]:
    """Shows a recorder's counters to OpenTelemetry.

    Those of several recorders are added up: the metrics are of the process.

    Args:
        recorder: whose counters are read, whenever the meter provider collects.
        meter_provider: by default OpenTelemetry's global one, also when it is set later.

    Returns:
        A function that stops it and lets go of the recorder. The counters keep their last value:
        they never go down.

    Raises:
        MissingExtraError: the OpenTelemetry API is not installed.
    """
    require("otel", "opentelemetry.metrics")
    panel = _panels().of(meter_provider)
    panel.add(recorder)
    return functools.partial(panel.fold, recorder)


@dataclass(frozen=True)
class _Observed:
    """What is added up: recorders, and the counters of those that ended."""

    recorders: tuple[Recorder, ...] = ()
    ended: Mapping[str, int] = field(default_factory=dict)

    def total(self, name: str) -> int:
        return self.ended.get(name, 0) + sum(_value(one, name) for one in self.recorders)


class _Panel:
    """The instruments of one meter provider, and the recorders behind them."""

    def __init__(self, meter_provider: MeterProvider | None) -> None:
        from opentelemetry.metrics import get_meter

        self._lock = threading.Lock()  # not taken to read: a fork may find it held
        self._observed = _Observed()
        self._meter = get_meter("rwml", meter_provider=meter_provider)
        for name, (of, unit, text) in _COUNTERS.items():
            read = functools.partial(self._read, of)
            self._meter.create_observable_counter(name, [read], unit=unit, description=text)
        for name, (of, unit, text) in _GAUGES.items():
            read = functools.partial(self._read, of)
            self._meter.create_observable_gauge(name, [read], unit=unit, description=text)

    def add(self, recorder: Recorder) -> None:
        with self._lock:
            before = self._observed
            if recorder not in before.recorders:
                self._observed = replace(before, recorders=(*before.recorders, recorder))

    def fold(self, recorder: Recorder) -> None:
        """Keeps a recorder's counters as they are now, and looks at it no more."""
        with self._lock:
            before = self._observed
            if recorder not in before.recorders:
                return
            last = {of: _value(recorder, of) for of, _, _ in _COUNTERS.values()}
            self._observed = _Observed(
                recorders=tuple(one for one in before.recorders if one is not recorder),
                ended={of: before.ended.get(of, 0) + value for of, value in last.items()},
            )

    def _read(self, of: str, _: CallbackOptions) -> Iterable[Observation]:
        from opentelemetry.metrics import Observation

        return [Observation(self._observed.total(of))]


class _Panels:
    """One panel for each meter provider: a second one would make every instrument twice."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._default: _Panel | None = None
        self._others: weakref.WeakKeyDictionary[MeterProvider, _Panel] = weakref.WeakKeyDictionary()

    def of(self, meter_provider: MeterProvider | None) -> _Panel:
        with self._lock:
            if meter_provider is None:
                self._default = self._default or _Panel(None)
                return self._default
            if meter_provider not in self._others:
                self._others[meter_provider] = _Panel(meter_provider)
            return self._others[meter_provider]


@functools.cache
def _panels() -> _Panels:
    return _Panels()


def _value(recorder: Recorder, name: str) -> int:
    return int(getattr(recorder.stats, name, 0))
