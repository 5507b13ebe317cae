"""Pictures of attention masks beside the objects they should cover, and the score against the kept mass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from numpy.typing import NDArray

from sar_dist.observe import PanelGrid
from sar_dist.transfer.tasks.attention.mass import BoolArray, FloatArray

OBJECT_COLOR, MASK_COLOR = "#35a7ff", "#ffb000"
_OPACITY = 0.6
_BRIGHTNESS = 0.45
_PICTURES_IN_A_LINE = 2


@dataclass(frozen=True)
class MaskPicture:
    """One image with one object.

    Attributes:
        image: uint8 (S, S, 3).
        object_mask: (S, S).
        masks: title -> patch mask (gh, gw), one panel each.
        caption: at most two lines.
    """

    image: NDArray[np.uint8]
    object_mask: BoolArray
    masks: Mapping[str, BoolArray]
    caption: str


def mask_figure(pictures: Sequence[MaskPicture], legend: str) -> Figure:
    """Two images a line, each with its object and its masks; Figure of 1500 pixels width."""
    panels = 2 + len(pictures[0].masks)
    lines = -(-len(pictures) // _PICTURES_IN_A_LINE)
    grid = PanelGrid(panels * _PICTURES_IN_A_LINE, [2] * lines)
    for number, picture in enumerate(pictures):
        line, column = divmod(number, _PICTURES_IN_A_LINE)
        image = picture.image / 255.0
        shown = [(picture.caption, image), ("object", overlay(image, picture.object_mask, OBJECT_COLOR))]
        shown += [
            (title, overlay(image, stretched(mask, len(image)), MASK_COLOR)) for title, mask in picture.masks.items()
        ]
        for offset, (title, pixels) in enumerate(shown):
            grid.panel(line, column * panels + offset, pixels, grid.shorten(title))
    grid.legend(legend, (OBJECT_COLOR, MASK_COLOR))
    return grid.figure


def overlay(image: FloatArray, mask: BoolArray, color: str) -> FloatArray:
    """``mask`` (S, S) in colour over the grey of ``image``, which is darkened elsewhere, (S, S, 3) in [0, 1]."""
    gray = np.repeat(image.mean(axis=2, keepdims=True), 3, axis=2)  # so that the colour means the mask alone
    covered = (1 - _OPACITY) * gray + _OPACITY * np.array(to_rgb(color))
    return np.where(mask[..., None], covered, gray * _BRIGHTNESS)


def stretched(mask: BoolArray, size: int) -> BoolArray:
    """Patch mask (gh, gw) to pixels (size, size), nearest neighbour."""
    rows, columns = (np.arange(size) * side // size for side in mask.shape)
    return np.asarray(mask[rows][:, columns], np.bool_)


def sweep_figure(
    masses: Sequence[float], curves: Mapping[str, Sequence[float]], uniform: float, chosen: float
) -> Figure:
    """Jaccard index in percent against the share of the attention that is kept, a line for each of ``curves``."""
    figure = Figure(figsize=(9, 5.5), dpi=100, facecolor="white", layout="constrained")
    axes = figure.add_subplot()
    for label, values in curves.items():
        axes.plot(masses, values, marker="o", markersize=4, label=label)
    axes.axhline(uniform, color="#888888", linestyle="--", label="uniform: every patch")
    axes.axvline(chosen, color="#888888", linestyle=":", label=f"kept mass of the score: {chosen:g}")
    axes.set(xlabel="kept share of the attention", ylabel="Jaccard index (%)", ylim=(0, None))
    axes.grid(alpha=0.3)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=2, frameon=False)
    return figure
