"""Pictures of what goes in and what comes out: samples as the model sees them, and what it confuses."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from einops import rearrange
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from sar_dist.observe.panels import FIGURE_DPI, PanelGrid, shorten_text

SAMPLES_PER_LINE = 8
MAX_NAMED_CLASSES = 30  # with more, names and counts would not be legible
CONFUSED_PAIRS = 20
NAME_INCHES = 1.35
NAME_POINTS = 9
SMALL_NAME_POINTS = 7


def samples_figure(images: Tensor, captions: Sequence[str] | None = None, legend: str = "") -> Figure:
    """Images side by side, such as the first of a training batch after augmentation.

    Args:
        images: (n, 3, S, S) in [0, 1], not normalised.
        captions: one text of one line for each image, such as "tench 0.7, goldfish 0.3" for a mixed pair.
        legend: a line below the images.

    Raises:
        ValueError: no images, another shape, or another number of captions.
    """
    if images.ndim != 4 or images.shape[1] != 3 or not len(images):
        raise ValueError(f"images must have shape (n, 3, S, S) with n > 0, got {tuple(images.shape)}")
    if captions is not None and len(captions) != len(images):
        raise ValueError(f"{len(captions)} captions for {len(images)} images")
    grid = PanelGrid(SAMPLES_PER_LINE, [int(captions is not None)] * math.ceil(len(images) / SAMPLES_PER_LINE))
    pixels = rearrange(images.detach().cpu().double().clamp(0, 1), "n c y x -> n y x c").numpy()
    for number, image in enumerate(pixels):
        caption = "" if captions is None else grid.shorten(captions[number])
        grid.panel(*divmod(number, SAMPLES_PER_LINE), image, caption)
    grid.legend(legend)
    return grid.figure


def confusion_figure(counts: Tensor, class_names: Sequence[str]) -> Figure:
    """Which class is taken for which: the matrix, and the pairs that are confused most.

    Args:
        counts: (C, C) integers, ``counts[t, p]`` images of class t predicted as class p.
        class_names: the C names, shortened to fit. Above 30 classes the matrix itself carries no names.

    Raises:
        ValueError: not square, or another number of names.
    """
    matrix = counts.detach().cpu().long().numpy()
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or len(class_names) != len(matrix):
        raise ValueError(f"counts {matrix.shape} and {len(class_names)} class names do not go together")
    figure = Figure(figsize=(15, 8.5), dpi=FIGURE_DPI, facecolor="white")
    names = [shorten_text(name, NAME_POINTS, NAME_INCHES) for name in class_names]
    _draw_matrix(figure.add_axes((0.14, 0.27, 0.35, 0.65)), figure.add_axes((0.5, 0.27, 0.012, 0.65)), matrix, names)
    _draw_pairs(figure.add_axes((0.79, 0.1, 0.18, 0.82)), matrix, names)
    return figure


def _draw_matrix(axes: Axes, scale: Axes, matrix: npt.NDArray[np.int64], names: list[str]) -> None:
    """Shares of each true class, in percent, so that classes of different sizes compare."""
    shares = 100 * matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    image = axes.imshow(shares, cmap="viridis", vmin=0, vmax=100, interpolation="nearest", aspect="auto")
    total = matrix.sum()
    accuracy = 100 * np.trace(matrix) / total if total else 0.0
    axes.set_title(f"{total} images, top-1 {accuracy:.2f} %", fontsize=11)
    axes.set_xlabel("predicted class", fontsize=10)
    axes.set_ylabel("true class", fontsize=10)
    scale.figure.colorbar(image, cax=scale, label="% of the true class")
    if len(names) > MAX_NAMED_CLASSES:
        return
    size = NAME_POINTS if len(names) <= 15 else SMALL_NAME_POINTS
    axes.set_xticks(range(len(names)), names, rotation=90, fontsize=size, parse_math=False)
    axes.set_yticks(range(len(names)), names, fontsize=size, parse_math=False)
    for true in range(len(names)):
        for predicted in range(len(names)):
            if matrix[true, predicted]:
                color = "black" if shares[true, predicted] > 60 else "white"
                axes.text(
                    predicted, true, str(matrix[true, predicted]), ha="center", va="center", color=color, fontsize=size
                )


def _draw_pairs(axes: Axes, matrix: npt.NDArray[np.int64], names: list[str]) -> None:
    """The largest entries off the diagonal, as bars."""
    wrong = matrix.copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[:CONFUSED_PAIRS]
    pairs = [(int(true), int(predicted)) for true, predicted in zip(*np.unravel_index(order, wrong.shape), strict=True)]
    pairs = [pair for pair in pairs if wrong[pair]]
    axes.set_title("most frequent confusions, true → predicted", fontsize=11, loc="right")
    axes.set_xlabel("images", fontsize=10)
    bars = axes.barh(range(len(pairs)), [wrong[pair] for pair in pairs], color="#35a7ff")
    axes.bar_label(bars, padding=3, fontsize=NAME_POINTS)
    axes.set_yticks(
        range(len(pairs)),
        [f"{names[true]} → {names[predicted]}" for true, predicted in pairs],
        fontsize=9,
        parse_math=False,
    )
    axes.set_ylim(CONFUSED_PAIRS - 0.5, -0.5)
    axes.margins(x=0.15)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
    axes.spines[["top", "right"]].set_visible(False)
