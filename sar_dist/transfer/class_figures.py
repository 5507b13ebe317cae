"""Picture of the accuracy of each class."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from sar_dist.observe import FIGURE_DPI, shorten_text

MAX_CLASSES = 30  # with more, only the worst are drawn
NAME_INCHES = 2.2
NAME_POINTS = 9


def class_accuracy_figure(accuracies: NDArray[np.float64], names: Sequence[str], title: str) -> Figure:
    """Bars of the accuracy of each class, worst first; of the worst 30 where there are more.

    Args:
        accuracies: (C,) percent, NaN for a class without samples, which is left out.
        names: the C names.
        title: of the figure.
    """
    order = np.argsort(accuracies, kind="stable")[: int(np.isfinite(accuracies).sum())]
    shown = order[:MAX_CLASSES]
    figure = Figure(figsize=(9, 1.3 + 0.25 * len(shown)), dpi=FIGURE_DPI, facecolor="white", layout="constrained")
    axes = figure.add_subplot()
    bars = axes.barh(range(len(shown)), accuracies[shown], color="#35a7ff")
    axes.bar_label(bars, fmt="%.1f", padding=3, fontsize=NAME_POINTS)
    labels = [shorten_text(names[label], NAME_POINTS, NAME_INCHES) for label in shown]
    axes.set_yticks(range(len(shown)), labels, fontsize=NAME_POINTS, parse_math=False)
    axes.invert_yaxis()
    axes.set_xlim(0, 108)
    axes.set_xlabel("top-1, %")
    mean = float(np.nanmean(accuracies))
    rest = f", worst {len(shown)} of {len(order)} classes" if len(shown) < len(order) else ""
    axes.set_title(f"{title}: mean over classes {mean:.2f} %{rest}", fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    return figure
