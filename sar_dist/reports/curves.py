"""The curves of runs: one chart for each quantity, runs side by side."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import PercentFormatter

from sar_dist.reports.runs import ReportedRun

LineStyle = Literal["solid", "dashed", "dotted"]

# Okabe and Ito's colours, which are told apart with any colour vision; then the same again in other line styles.
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000")
STYLES: tuple[LineStyle, ...] = ("solid", "dashed", "dotted")
COLUMNS = 2
DPI = 130


@dataclass(frozen=True)
class Panel:
    """One chart.

    Attributes:
        title: the quantity and its unit.
        metrics: prefix, name and what to call it; one, or two that belong together.
        share: values are shares of 1, shown in percent.
        wide: values may span orders of magnitude; the axis is logarithmic when they do.
        from_zero: the axis begins at 0.
    """

    title: str
    metrics: tuple[tuple[str, str, str], ...]
    share: bool = False
    wide: bool = False
    from_zero: bool = False


PANELS = (
    Panel("cross-entropy, nats", (("train", "loss_cls", "training"), ("val", "loss_cls", "validation"))),
    Panel("validation top-1, %", (("val", "top1", "live weights"), ("val_ema", "top1", "averaged weights"))),
    Panel("spatial entropy, nats", (("train", "loss_entropy", "training"), ("val", "entropy", "validation"))),
    Panel("components of a map", (("train", "components", "training"), ("val", "components", "validation"))),
    Panel("weight of the entropy in the loss", (("train", "entropy_weight", "training"),)),
    Panel("learning rate", (("train", "learning_rate", "training"),)),
    Panel("gradient norm before clipping", (("train", "gradient_norm", "training"),), wide=True),
    Panel("images per second", (("train", "images_per_second", "training"),), from_zero=True),
    Panel("share of time waiting for data", (("train", "data_wait_share", "training"),), share=True),
    Panel("model FLOPs utilisation", (("train", "mfu", "training"),), share=True),
)


def report_figure(runs: Sequence[ReportedRun]) -> Figure:
    """The curves of all runs, one chart for each quantity that at least one run has, over epochs.

    Colours tell the runs apart. Within a chart the first metric is a line, the second one, on fewer points, a thinner
    line with markers.
    """
    panels = [panel for panel in PANELS if any(_curves(run, panel) for run in runs)]
    rows = math.ceil(len(panels) / COLUMNS)
    figure = Figure(figsize=(13, 3.1 * rows + 0.4 + 0.25 * len(runs)), layout="constrained", dpi=DPI)
    axes = figure.subplots(rows, COLUMNS, squeeze=False).ravel()
    for axis, panel in zip(axes, panels, strict=False):
        _draw_panel(axis, panel, runs)
    for axis in axes[len(panels) :]:
        axis.remove()
    unit = "epoch" if all(run.steps_per_epoch for run in runs) else "epoch (step where unknown)"
    figure.supxlabel(unit, fontsize=11)
    handles = [
        Line2D([], [], color=_color(number), linestyle=_style(number), linewidth=_width(number), label=run.name)
        for number, run in enumerate(runs)
    ]
    figure.legend(handles=handles, loc="outside upper left", ncols=1, frameon=False, fontsize=11)
    return figure


def _curves(run: ReportedRun, panel: Panel) -> list[tuple[list[float], list[float], str]]:
    curves = [(*run.curve(prefix, name), note) for prefix, name, note in panel.metrics]
    return [curve for curve in curves if curve[0]]


def _draw_panel(axis: Axes, panel: Panel, runs: Sequence[ReportedRun]) -> None:
    lowest, highest = math.inf, -math.inf
    for number, run in enumerate(runs):
        for x, y, note in _curves(run, panel):
            first = note == panel.metrics[0][2]
            axis.plot(
                x,
                y,
                color=_color(number),
                linestyle=_style(number),
                linewidth=_width(number) if first else 1.0,
                marker="." if len(x) == 1 else None if first else "o",
                markersize=6 if len(x) == 1 else 3.5,
            )
            lowest, highest = min([lowest, *y]), max([highest, *y])
    caption = "; with markers: ".join(note for _, _, note in panel.metrics)
    axis.set_title(panel.title + (f" ({caption})" if len(panel.metrics) > 1 else ""), loc="left", fontsize=10.5)
    axis.grid(alpha=0.3)
    axis.spines[["top", "right"]].set_visible(False)
    if panel.wide and 0 < 30 * lowest < highest < math.inf:
        axis.set_yscale("log")
    if panel.share:
        axis.yaxis.set_major_formatter(PercentFormatter(1.0))
    if panel.from_zero or panel.share:
        axis.set_ylim(bottom=0)


def _color(number: int) -> str:
    return COLORS[number % len(COLORS)]


def _style(number: int) -> LineStyle:
    return STYLES[number // len(COLORS) % len(STYLES)]


def _width(number: int) -> float:
    """Later runs are drawn thinner, so that curves that coincide can both be seen."""
    return max(1.2, 2.6 - 0.9 * number)


def figure_png(figure: Figure) -> bytes:
    """A figure as the bytes of a PNG file."""
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=DPI)
    return out.getvalue()
