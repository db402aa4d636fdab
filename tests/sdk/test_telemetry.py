"""`rwml.telemetry`: a recorder's counters, read through the real OpenTelemetry SDK."""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

import rwml
from rwml.errors import MissingExtraError
from rwml.telemetry import observe
from rwml.testing import make_trajectory

pytest.importorskip("opentelemetry.sdk.metrics", reason="needs opentelemetry-sdk")

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader, NumberDataPoint

NAMES = {
    "rwml.records.accepted",
    "rwml.records.written",
    "rwml.records.failed",
    "rwml.records.skipped",
    "rwml.records.dropped",
    "rwml.errors",
    "rwml.queue.records",
    "rwml.spool.records",
}


@dataclass
class Meter:
    """A user's own meter provider, and what it would export."""

    reader: InMemoryMetricReader
    provider: MeterProvider

    def read(self) -> dict[str, int]:
        data = self.reader.get_metrics_data()
        found: dict[str, int] = {}
        for resource in data.resource_metrics if data else ():
            for scope in resource.scope_metrics:
                for metric in scope.metrics:
                    assert metric.name not in found, "exported twice"
                    assert scope.scope.name == "rwml"
                    (point,) = metric.data.data_points
                    assert isinstance(point, NumberDataPoint)
                    assert not point.attributes
                    found[metric.name] = int(point.value)
        return found


@pytest.fixture
def meter():
    reader = InMemoryMetricReader()
    provider = MeterProvider(metric_readers=[reader])
    yield Meter(reader, provider)
    provider.shutdown()


@pytest.fixture
def recorder(tmp_path: Path):
    with rwml.Recorder(store=f"sqlite:///{tmp_path / 'rwml.db'}") as made:
        yield made


def test_the_counters_are_shown(meter: Meter, recorder: rwml.Recorder) -> None:
    stop = observe(recorder, meter.provider)
    assert meter.read() == dict.fromkeys(NAMES, 0)
    recorder.record(make_trajectory(1))  # a header and four steps
    assert recorder.flush()
    shown = meter.read()
    assert (shown["rwml.records.accepted"], shown["rwml.records.written"]) == (5, 5)
    assert shown["rwml.queue.records"] == 0
    recorder.close()
    recorder.record(make_trajectory(2))
    assert meter.read()["rwml.records.dropped"] > 0
    stop()


def test_kinds_of_instruments(meter: Meter, recorder: rwml.Recorder) -> None:
    observe(recorder, meter.provider)
    data = meter.reader.get_metrics_data()
    assert data is not None
    ((scope,),) = [resource.scope_metrics for resource in data.resource_metrics]
    kinds = {
        m.name: (type(m.data).__name__, getattr(m.data, "is_monotonic", None))
        for m in scope.metrics
    }
    gauges = {"rwml.queue.records", "rwml.spool.records"}
    assert kinds == {n: ("Gauge", None) if n in gauges else ("Sum", True) for n in NAMES}


def test_several_recorders_are_added_up(meter: Meter, tmp_path: Path) -> None:
    made = [rwml.Recorder(store=f"sqlite:///{tmp_path / str(n)}.db") for n in range(2)]
    stops = [observe(recorder, meter.provider) for recorder in made]
    stops.append(observe(made[0], meter.provider))  # twice counts once
    for recorder in made:
        recorder.record(make_trajectory(1))
        assert recorder.flush()
    assert meter.read()["rwml.records.written"] == 10
    for stop, recorder in zip(stops, made, strict=False):
        recorder.close()
        stop()
    assert meter.read()["rwml.records.written"] == 10  # counters never go down


def test_stopping_ends_it(meter: Meter, recorder: rwml.Recorder) -> None:
    stop = observe(recorder, meter.provider)
    recorder.record(make_trajectory(1))
    assert recorder.flush()
    stop()
    stop()
    recorder.record(make_trajectory(2))
    assert recorder.flush()
    assert meter.read()["rwml.records.written"] == 5
    observe(recorder, meter.provider)
    assert meter.read()["rwml.records.written"] == 15


def test_the_global_provider_may_come_later(tmp_path: Path) -> None:
    code = (
        "import sys, rwml\n"
        "from rwml.telemetry import observe\n"
        "from rwml.testing import make_trajectory\n"
        "recorder = rwml.Recorder(store=sys.argv[1])\n"
        "observe(recorder)\n"
        "recorder.record(make_trajectory(1))\n"
        "assert recorder.flush()\n"
        "from opentelemetry import metrics\n"
        "from opentelemetry.sdk.metrics import MeterProvider\n"
        "from opentelemetry.sdk.metrics.export import InMemoryMetricReader, NumberDataPoint\n"
        "reader = InMemoryMetricReader()\n"
        "metrics.set_meter_provider(MeterProvider(metric_readers=[reader]))\n"
        "print('rwml.records.written' in str(reader.get_metrics_data().to_json()))\n"
    )
    url = f"sqlite:///{tmp_path / 'rwml.db'}"
    done = subprocess.run(
        [sys.executable, "-c", code, url], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout == "True\n"
    assert done.stderr == ""


def test_without_opentelemetry_it_says_what_to_install(
    recorder: rwml.Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rwml.extras.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"rwml\[otel\]"):
        observe(recorder)


def test_every_metric_is_documented() -> None:
    table = (Path(__file__).parents[2] / "docs" / "operations.md").read_text(encoding="utf-8")
    assert [name for name in NAMES if f"| `{name}` |" not in table] == []


def test_importing_rwml_does_not_import_opentelemetry() -> None:
    code = "import sys, rwml, rwml.telemetry; print('opentelemetry' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout == "False\n"
