"""What a monitor found, as OpenTelemetry gauges, for whoever asks for them.

They go to the meter provider of the process, which decides whether anything leaves it; rwml sets up
no provider and no exporter. Attributes are the names of tools and who answered; nothing else that
was recorded. Source: OpenTelemetry metrics API, synchronous gauges.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from rwml.extras import require
from rwml.world_model.monitoring import ToolReport

if TYPE_CHECKING:
    from opentelemetry.metrics import MeterProvider

SURPRISE = "rwml.surprise"
BASELINE = "rwml.surprise.baseline"
ALARM = "rwml.surprise.alarm"


def show(reports: Iterable[ToolReport], meter_provider: MeterProvider | None = None) -> None:
    """Sets the gauges: mean surprise, that of the baseline, and 1 where there is an alarm, else 0.

    Args:
        reports: of the tools.
        meter_provider: by default OpenTelemetry's global one.

    Raises:
        MissingExtraError: the OpenTelemetry API is not installed.
    """
    require("otel", "opentelemetry.metrics")
    from opentelemetry.metrics import get_meter

    meter = get_meter("rwml", meter_provider=meter_provider)
    surprise = meter.create_gauge(SURPRISE, "1", "Mean gap of predictions and what came back.")
    baseline = meter.create_gauge(BASELINE, "1", "The same in the reference period.")
    alarm = meter.create_gauge(ALARM, "1", "1 where surprise has risen, else 0.")
    for each in reports:
        about = {"kind": each.kind, "tool": each.tool or ""}
        if each.surprise is not None:
            surprise.set(each.surprise, about)
        if each.baseline is not None:
            baseline.set(each.baseline, about)
        alarm.set(int(each.status == "drift"), about)
