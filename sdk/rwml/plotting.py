"""Charts as PNG files, in one style: grouped bars with their intervals.

matplotlib is loaded when a chart is drawn, without a window and without a change of its global
settings: a program that plots on its own sees nothing of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from rwml.extras import require
from rwml.files import whole_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 120
_WIDTH = 0.8
"""Of all bars of a group; groups are 1 apart."""


class Bar(NamedTuple):
    """A value with its interval; None where it has none, or is not known."""

    value: float | None
    low: float | None = None
    high: float | None = None


@contextmanager
def figure(path: Path, *, width: float, height: float) -> Iterator[Figure]:
    """An empty figure, written to `path` as PNG when the block ends well.

    Args:
        path: of the file; it appears whole or not at all.
        width: inches.
        height: inches.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    require("plot", "matplotlib")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    made = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(made)
    yield made
    with whole_file(path, mode=0o666) as temporary:
        made.savefig(temporary, dpi=DPI, format="png")


def draw_bars(axes: Axes, groups: Sequence[str], series: Mapping[str, Sequence[Bar]]) -> None:
    """Draws grouped bars with intervals, each with its value above it.

    Args:
        axes: drawn on; from 0 to a little more than 1.
        groups: names under the groups.
        series: for each name in the legend, one bar per group.
    """
    width = _WIDTH / len(series)
    for place, (name, bars) in enumerate(series.items()):
        shift = (place - (len(series) - 1) / 2) * width
        known = [(x + shift, bar) for x, bar in enumerate(bars) if bar.value is not None]
        axes.bar([x for x, _ in known], [bar.value or 0.0 for _, bar in known], width, label=name)
        for x, bar in known:
            _draw_interval(axes, x, bar)
    axes.set_xticks(range(len(groups)), groups)
    axes.set_xlim(-0.5, len(groups) - 0.5)
    axes.set_ylim(0, 1.08)
    if len(series) > 1:
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=2, fontsize="small")


def _draw_interval(axes: Axes, x: float, bar: Bar) -> None:
    value, low, high = bar
    assert value is not None  # noqa: S101 - bars without a value are not drawn
    top = value
    if low is not None and high is not None:
        spread = [[max(value - low, 0.0)], [max(high - value, 0.0)]]
        axes.errorbar(x, value, spread, color="black", capsize=3, linewidth=1)
        top = max(value, high)
    axes.text(x, top + 0.01, f"{value:.2f}", ha="center", va="bottom", fontsize="small")
