"""One page about one run, or several side by side: curves, final figures, differences of configuration, transfer."""

from __future__ import annotations

import base64
import html
import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import PercentFormatter

from sar_dist.observe.attention_page import STYLE
from sar_dist.observe.report_runs import ReportedRun, config_differences, final_figures
from sar_dist.observe.report_seeds import seeds_table

LineStyle = Literal["solid", "dashed", "dotted"]

# Okabe and Ito's colours, which are told apart with any colour vision; then the same again in other line styles.
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000")
STYLES: tuple[LineStyle, ...] = ("solid", "dashed", "dotted")
COLUMNS = 2
DPI = 130
# Rows in which a difference to the baseline means something, and is better when higher (+1) or lower (-1).
COMPARED = ("validation loss", "top-1", "top-5", "entropy, nats", "components", "images per second")


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


def report_page(runs: Sequence[ReportedRun], curves_png: bytes) -> str:
    """The report as one HTML page that needs no other file.

    Args:
        runs: the runs, in the order of the columns. With exactly one baseline among several runs, the figures of the
            others show the difference to it.
        curves_png: the picture of ``report_figure``.
    """
    title = "Training report: " + ", ".join(run.name for run in runs)
    final_ones = [final_figures(run) for run in runs]
    sections = [
        f"<h1>{html.escape(title)}</h1>",
        *(f"<p>{html.escape(_origin(run))}</p>" for run in runs),
        "<h2>Final figures</h2>",
        _comparison(runs, final_ones),
    ]
    transfer = [_flat_transfer(run) for run in runs]
    if any(transfer):
        sections += ["<h2>Transfer</h2>", _comparison(runs, transfer, compare=lambda _: True)]
    seeds = seeds_table(runs, [final | scores for final, scores in zip(final_ones, transfer, strict=True)])
    if seeds is not None:
        note = (
            "<p>Mean ± standard deviation over seeds; in brackets the difference to the runs without regularizer.</p>"
        )
        sections += ["<h2>Over seeds</h2>", note, html_table(*seeds)]
    differences = config_differences(list(runs))
    if differences:
        rows = [[key, *values] for key, values in differences.items()]
        sections += ["<h2>Different settings</h2>", html_table(["key", *(run.name for run in runs)], rows)]
    sections += ["<h2>Curves</h2>", html_image(curves_png, "curves of all runs")]
    return html_page(title, sections)


def html_image(png: bytes, what: str) -> str:
    """A picture inside the page itself."""
    return f'<img alt="{html.escape(what)}" src="data:image/png;base64,{base64.b64encode(png).decode()}">'


def html_page(title: str, sections: Sequence[str]) -> str:
    """A whole page, which needs no other file, of HTML ``sections``."""
    return "\n".join(
        (
            '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width">',
            f"<title>{html.escape(title)}</title><style>{STYLE}</style></head><body>",
            *sections,
            "</body></html>\n",
        )
    )


def _origin(run: ReportedRun) -> str:
    environment = run.environment
    parts = [f"{run.name}: {run.path}"]
    if environment:
        commit = str(environment.get("git_commit") or "no commit")[:12]
        changes = " with changes" if environment.get("git_changes") else ""
        parts.append(f"{environment.get('world_size')} x {environment.get('device')}")
        parts.append(f"started {environment.get('started')}, {commit}{changes}")
    return "; ".join(parts)


def _flat_transfer(run: ReportedRun) -> dict[str, float | None]:
    return {f"{task}: {metric}": value for task, results in run.transfer.items() for metric, value in results.items()}


def _is_compared(label: str) -> bool:
    return any(part in label for part in COMPARED)


def _comparison(
    runs: Sequence[ReportedRun],
    figures: Sequence[dict[str, float | None]],
    compare: Callable[[str], bool] = _is_compared,
) -> str:
    """A row for each figure that some run has; differences to the only baseline in brackets."""
    baselines = [number for number, run in enumerate(runs) if run.is_baseline]
    baseline = baselines[0] if len(baselines) == 1 and len(runs) > 1 else None
    rows = []
    for label in dict.fromkeys(label for values in figures for label in values):
        cells = []
        for number, values in enumerate(figures):
            value = values.get(label)
            reference = None if baseline in (None, number) else figures[baseline].get(label)
            difference = value - reference if value is not None and reference is not None and compare(label) else None
            cells.append(_number(value) + ("" if difference is None else f" ({_number(difference, signed=True)})"))
        if any(cell != _number(None) for cell in cells):
            rows.append([label, *cells])
    note = "" if baseline is None else f"<p>In brackets: difference to {html.escape(runs[baseline].name)}.</p>"
    return note + html_table(["", *(run.name for run in runs)], rows)


def _number(value: float | None, *, signed: bool = False) -> str:
    if value is None:
        return "–"
    if not signed and abs(value) < 1e9 and value == int(value):
        return f"{int(value):,}"
    return f"{value:+.3g}" if signed else f"{value:.4g}"


def html_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table whose first column holds the names of the rows."""

    def line(cells: Sequence[str], tag: str) -> str:
        first = f"<th>{html.escape(cells[0])}</th>"
        return f"<tr>{first}" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells[1:]) + "</tr>"

    body = "\n".join(line(row, "td") for row in rows)
    return f'<div class="wide"><table>\n{line(header, "th")}\n{body}\n</table></div>'
