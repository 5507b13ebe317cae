"""The curves of runs: one chart for each quantity, runs side by side, as a picture and as charts of a page."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Text
from matplotlib.ticker import PercentFormatter
from PIL import Image, ImageDraw

from sar_dist.observe import drawn_or_said, make_drawable, panel_title, quantities_in
from sar_dist.quantities import Quantity, Scale
from sar_dist.reports.charts import Chart, ChartAxis, ChartBoard, ChartLine, ChartSeries
from sar_dist.reports.rendering import Picture
from sar_dist.reports.runs import ReportedRun
from sar_dist.reports.seeds import seed_groups

LineStyle = Literal["solid", "dashed", "dotted"]

# Okabe and Ito's colours, which are told apart with any colour vision; then the same again in other line styles.
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000")
STYLES: tuple[LineStyle, ...] = ("solid", "dashed", "dotted")
COLUMNS = 2
DPI = 130


@dataclass(frozen=True)
class Look:
    """Colour, line style and width in points of a run's curves."""

    color: str
    style: LineStyle
    width: float


Panel = tuple[Quantity, ...]  # what one chart draws: a curve, or two that belong together
_NOTES = {"train": "training", "val": "validation"}
_NOTES_OF_VALIDATION = {"val": "live weights", "val_ema": "averaged weights"}


def panels_of(quantities: Iterable[Quantity]) -> list[Panel]:
    """The charts, in the order in which their labels first appear."""
    panels: dict[str, Panel] = {}
    for quantity in quantities:
        if quantity.panel:
            panels[quantity.label] = (*panels.get(quantity.label, ()), quantity)
    return list(panels.values())


def report_figure(runs: Sequence[ReportedRun]) -> Figure:
    """The curves of all runs, one chart for each quantity that at least one run has, over epochs.

    Colours tell the configurations apart, line styles their seeds. Within a chart the first metric is a line, the second one, on fewer points, a thinner
    line with markers.
    """
    panels = _panels_with_curves(runs)
    rows = max(1, math.ceil(len(panels) / COLUMNS))
    figure = Figure(figsize=(13, 3.1 * rows + 0.4 + 0.25 * len(runs)), layout="constrained", dpi=DPI)
    axes = figure.subplots(rows, COLUMNS, squeeze=False).ravel()
    looks = looks_of(runs)
    for axis, panel in zip(axes, panels, strict=False):
        _draw_panel(axis, panel, runs, looks)
    for axis in axes[len(panels) :]:
        axis.remove()
    figure.supxlabel(_x_label(runs), fontsize=11)
    handles = [
        Line2D([], [], color=look.color, linestyle=look.style, linewidth=look.width, label=run.name)
        for run, look in zip(runs, looks, strict=True)
    ]
    figure.legend(handles=handles, loc="outside upper left", ncols=1, frameon=False, fontsize=11)
    return figure


def report_board(runs: Sequence[ReportedRun], picture: Picture) -> ChartBoard:
    """The charts of ``report_figure`` as those of a page; ``picture`` is that figure."""
    charts = []
    for panel in _panels_with_curves(runs):
        drawn = [(number, curve) for number, run in enumerate(runs) for curve in _curves(run, panel)]
        several = len({quantity.prefix for _, (_, _, quantity) in drawn}) > 1
        lines = [
            ChartLine(number, x, y, _note(panel, quantity) if several else "", markers=quantity != panel[0])
            for number, (x, y, quantity) in drawn
        ]
        scale = panel[0].scale
        logarithmic = is_logarithmic(scale, [value for line in lines for value in line.y])
        from_zero = scale in ("from_zero", "share")
        charts.append(Chart(panel_title(panel), lines, logarithmic, from_zero, percent=scale == "share"))
    dashes = {"solid": (), "dashed": (6, 3), "dotted": (2, 2)}
    looks = looks_of(runs)
    series = [ChartSeries(run.name, look.color, dashes[look.style]) for run, look in zip(runs, looks, strict=True)]
    return ChartBoard(
        "Curves", series, charts, _x_label(runs), picture, further_axes=further_axes([[run] for run in runs])
    )


def further_axes(series: Sequence[Sequence[ReportedRun]]) -> list[ChartAxis]:
    """Steps and training images as axes beside epochs, as far as all runs say how many are in one, alike within a series.

    Args:
        series: the runs that each series of the charts shows.
    """
    axes = [
        ChartAxis("step", [_common(run.steps_per_epoch for run in runs) for runs in series]),
        ChartAxis("training image", [_common(map(_images_per_epoch, runs)) for runs in series]),
    ]
    return [axis for axis in axes if all(axis.per_x)]


def _common(values: Iterable[float | None]) -> float:
    """The one value of all of them; 0 where they differ or one is unknown."""
    found = {round(value or 0, 6) for value in values}
    return found.pop() if len(found) == 1 else 0


def _images_per_epoch(run: ReportedRun) -> float:
    return (run.steps_per_epoch or 0) * run.config.get("optim", {}).get("global_batch", 0)


def is_logarithmic(scale: Scale, values: Sequence[float]) -> bool:
    """Whether values that may span orders of magnitude do."""
    return scale == "wide" and 0 < 30 * min(values) < max(values) < math.inf


def _panels_with_curves(runs: Sequence[ReportedRun]) -> list[Panel]:
    quantities = quantities_in(record for run in runs for record in run.records)
    return [panel for panel in panels_of(quantities) if any(_curves(run, panel) for run in runs)]


def _x_label(runs: Sequence[ReportedRun]) -> str:
    return "epoch" if all(run.steps_per_epoch for run in runs) else "epoch (step where unknown)"


def _curves(run: ReportedRun, panel: Panel) -> list[tuple[list[float], list[float], Quantity]]:
    curves = [(*run.curve(quantity.prefix, quantity.key), quantity) for quantity in panel]
    return [curve for curve in curves if curve[0]]


def _caption(panel: Panel) -> str:
    """Which curve is which, where there are two."""
    return f" ({'; with markers: '.join(_note(panel, curve) for curve in panel)})" if len(panel) > 1 else ""


def _note(panel: Panel, curve: Quantity) -> str:
    notes = _NOTES if panel[0].prefix == "train" else _NOTES_OF_VALIDATION
    return notes[curve.prefix]


def _draw_panel(axis: Axes, panel: Panel, runs: Sequence[ReportedRun], looks: Sequence[Look]) -> None:
    scale = panel[0].scale
    values: list[float] = []
    for run, look in zip(runs, looks, strict=True):
        for x, y, quantity in _curves(run, panel):
            first = quantity == panel[0]
            axis.plot(
                x,
                y,
                color=look.color,
                linestyle=look.style,
                linewidth=look.width if first else 1.0,
                marker="." if len(x) == 1 else None if first else "o",
                markersize=6 if len(x) == 1 else 3.5,
            )
            values += y
    axis.set_title(panel_title(panel) + _caption(panel), loc="left", fontsize=10.5)
    axis.grid(alpha=0.3)
    axis.spines[["top", "right"]].set_visible(False)
    if is_logarithmic(scale, values):
        axis.set_yscale("log")
    if scale == "share":
        axis.yaxis.set_major_formatter(PercentFormatter(1.0))
    if scale in ("from_zero", "share"):
        axis.set_ylim(bottom=0)


def looks_of(runs: Sequence[ReportedRun]) -> list[Look]:
    """A colour for each configuration and a line style for each of its seeds; later configurations are drawn thinner.

    Thinner, so that curves that coincide can both be seen. Beyond the colours there are, the line style changes.
    """
    looks: dict[int, Look] = {}
    for number, group in enumerate(seed_groups(runs)):
        for place, run in enumerate(group.runs):
            style = STYLES[(number // len(COLORS) + place) % len(STYLES)]
            looks[run] = Look(COLORS[number % len(COLORS)], style, max(1.2, 2.6 - 0.9 * number))
    return [looks[number] for number in range(len(runs))]


def png_or_note(title: str, png: Callable[[], bytes]) -> bytes:
    """A picture as PNG; where drawing it fails, which is said, one that says so in its place on the page."""
    drawn = drawn_or_said(f"the picture {title}", png)
    if drawn is not None:
        return drawn
    out = io.BytesIO()
    image = Image.new("RGB", (480, 60), "white")
    ImageDraw.Draw(image).text((10, 22), f"{title[:40]!a} could not be drawn", fill="black")
    image.save(out, "PNG")
    return out.getvalue()


def figure_png(figure: Figure) -> bytes:
    """A figure as the bytes of a PNG file. Names are no formulas, whatever they hold; the numbers of a logarithmic axis are."""
    for text in figure.findobj(Text):
        if text.get_text() and not text.get_text().startswith(r"$\mathdefault{"):
            text.set_parse_math(False)
    make_drawable(figure)
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=DPI)
    return out.getvalue()
