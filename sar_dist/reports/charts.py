"""Charts that a page draws by itself: values under the pointer, lines that can be switched off, smoothing.

The page's script draws them with uPlot (``vendor/``), which is in the page. Without scripts, and on paper, a picture of
the same curves stands in their place.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sar_dist.reports.rendering import Picture

POINTS_OF_A_PAGE = 60_000  # about a megabyte of the page's five
LEAST_POINTS, MOST_POINTS = 100, 1_000  # of a line: more than a screen has pixels for a chart are of no use
_DIGITS = 6
_DIGITS_OF_X = 9  # so that epochs give whole steps again


@dataclass(frozen=True)
class ChartSeries:
    """What is switched on and off in all charts at once: a run, or an arm of an experiment.

    Attributes:
        name: for people.
        color: as #rrggbb.
        dash: lengths of strokes and gaps in pixels; empty for a solid line.
    """

    name: str
    color: str
    dash: tuple[int, ...] = ()


@dataclass(frozen=True)
class ChartLine:
    """A curve.

    Attributes:
        series: number of what it belongs to.
        x, y: as many values; y may hold NaN and infinities, which are gaps.
        note: which of its series' lines it is, such as "validation"; empty where there is one.
        low, high: edges of a band around it, or empty.
        markers: drawn with its points, and not smoothed.
    """

    series: int
    x: Sequence[float]
    y: Sequence[float]
    note: str = ""
    low: Sequence[float] = ()
    high: Sequence[float] = ()
    markers: bool = False


@dataclass(frozen=True)
class Chart:
    """Curves over the same axes.

    Attributes:
        title: what the values are, and their unit.
        lines: the curves.
        logarithmic, from_zero, percent: how the values' axis is drawn; percent shows shares of 1.
    """

    title: str
    lines: Sequence[ChartLine]
    logarithmic: bool = False
    from_zero: bool = False
    percent: bool = False


@dataclass(frozen=True)
class ChartAxis:
    """Another unit of the common axis, in whole numbers.

    Attributes:
        name: of the unit, in the singular.
        per_x: of each series, how many of it are in one of ``ChartBoard.x_label``.
    """

    name: str
    per_x: Sequence[float]


@dataclass(frozen=True)
class ChartBoard:
    """Charts that share an axis, a pointer and the switches of their series.

    Attributes:
        title: heading.
        series: what the lines belong to.
        charts: in order.
        x_label: what is on the common axis.
        picture: the same, for those without scripts and for paper.
        kind: what the series are, for people.
        further_axes: what the common axis can be switched to.
    """

    title: str
    series: Sequence[ChartSeries]
    charts: Sequence[Chart]
    x_label: str
    picture: Picture
    kind: str = "Runs"
    further_axes: Sequence[ChartAxis] = ()

    def data(self) -> dict[str, Any]:
        """What the script draws, as values that JSON has."""
        most = self._points_of_a_line
        charts = [
            {
                "logarithmic": chart.logarithmic,
                "fromZero": chart.from_zero,
                "percent": chart.percent,
                "lines": [_line(line, most) for line in chart.lines],
            }
            for chart in self.charts
        ]
        series = [{"color": each.color, "dash": list(each.dash)} for each in self.series]
        axes = [{"name": axis.name, "perX": list(axis.per_x), "whole": True} for axis in self.further_axes]
        usual = {"name": self.x_label, "perX": [1] * len(self.series), "whole": False}
        return {"axes": [usual, *axes], "series": series, "charts": charts}

    @property
    def note(self) -> str:
        """How the lines were made shorter, if some were."""
        most, longest = self._points_of_a_line, max((len(line.x) for line in self._lines), default=0)
        if longest <= most:
            return ""
        return (
            f"Lines with more than {most:,} points show means of up to {math.ceil(longest / most)} neighbouring ones."
        )

    @property
    def _lines(self) -> list[ChartLine]:
        return [line for chart in self.charts for line in chart.lines]

    @property
    def _points_of_a_line(self) -> int:
        return min(MOST_POINTS, max(LEAST_POINTS, POINTS_OF_A_PAGE // max(1, len(self._lines))))


def _line(line: ChartLine, most: int) -> dict[str, Any]:
    return {
        "series": line.series,
        "markers": line.markers,
        "x": thinned(line.x, most, _DIGITS_OF_X),
        **{name: thinned(getattr(line, name), most) for name in ("y", "low", "high")},
    }


def thinned(values: Sequence[float], most: int, digits: int = _DIGITS) -> list[float | None]:
    """Means of neighbouring values, at most ``most`` of them, to so many digits; None where one is not finite."""
    every = max(1, math.ceil(len(values) / most))
    array = np.asarray(values, dtype=float)
    with np.errstate(invalid="ignore"):  # infinity - infinity, of a run that diverged
        means = [float(array[start : start + every].mean()) for start in range(0, len(array), every)]
    return [float(f"{mean:.{digits}g}") if math.isfinite(mean) else None for mean in means]
