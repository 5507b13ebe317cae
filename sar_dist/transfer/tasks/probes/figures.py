"""Picture of a probe: accuracy against what was swept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from sar_dist.observe import FIGURE_DPI

MOST_TICKS = 8  # with more values, powers of ten alone are labelled
NAME_POINTS = 9

Curve = Sequence[tuple[float, float]]


def sweep_figure(
    curves: Mapping[str, Curve], marked: tuple[float, float], title: str, x_label: str, mark: str = "chosen"
) -> Figure:
    """Accuracy against a swept value, on a logarithmic axis.

    Args:
        curves: name -> points (value, accuracy in percent).
        marked: a point with a circle around it.
        title, x_label, mark: texts; ``mark`` says what the circle is.
    """
    figure = Figure(figsize=(9, 5.5), dpi=FIGURE_DPI, facecolor="white", layout="constrained")
    axes = figure.add_subplot()
    for name, points in curves.items():
        values, accuracies = zip(*sorted(points), strict=True)
        axes.plot(values, accuracies, marker="o", markersize=4, label=name)
    axes.plot(
        *marked,
        marker="o",
        markersize=13,
        markerfacecolor="none",
        markeredgecolor="black",
        linestyle="none",
        label=mark,
    )
    axes.set_xscale("log")
    ticks = sorted({value for points in curves.values() for value, _ in points})
    if len(ticks) <= MOST_TICKS:
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks], minor=False)
        axes.minorticks_off()
    axes.set_xlabel(x_label)
    axes.set_ylabel("top-1, %")
    axes.set_title(title, fontsize=11)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=NAME_POINTS)
    return figure
