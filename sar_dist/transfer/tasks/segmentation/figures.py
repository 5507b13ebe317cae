"""Pictures of predictions, and the score of each class, drawn with matplotlib's object interface."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from einops import rearrange
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional

from sar_dist.transfer.tasks.segmentation.samples import VOID

FloatArray = npt.NDArray[np.float64]

LONGEST_SIDE = 480
COLUMNS = ("image", "ground truth", "prediction", "errors")
COLUMN_INCHES = 3.6
MAX_LEGEND_CLASSES = 36
LEGEND_COLUMNS = 6
LEGEND_LINE_INCHES = 0.24
VOID_COLOR = (0.0, 0.0, 0.0)
ERROR_COLOR = (0.9, 0.1, 0.1)
RIGHT_COLOR = (0.93, 0.93, 0.93)
BAR_INCHES = 0.19
_FIRST_HUE = 0.58  # not the red of errors
_GOLDEN_ANGLE = 0.618034


@dataclass(frozen=True)
class Prediction:
    """One image: name, uint8 (3, h, w), labels and prediction (H, W)."""

    key: str
    image: Tensor
    label: Tensor
    prediction: Tensor


def class_colors(classes: int) -> FloatArray:
    """(classes, 3) in [0, 1]: hues a golden angle apart, so that neighbours in the list differ."""
    return np.array(
        [
            colorsys.hsv_to_rgb(
                (_FIRST_HUE + number * _GOLDEN_ANGLE) % 1, (0.85, 0.55, 0.95)[number % 3], (0.9, 0.98, 0.62)[number % 3]
            )
            for number in range(classes)
        ]
    )


def predictions_figure(predictions: Sequence[Prediction], classes: Sequence[str]) -> Figure:
    """Image, ground truth, prediction and errors of each, one line each, with the classes' colours below.

    The legend names the classes by their area in the shown maps, at most 36 of them.
    """
    colors = class_colors(len(classes))
    lines = [_panels(prediction, colors) for prediction in predictions]
    shown = _classes_by_area(predictions, len(classes))[:MAX_LEGEND_CLASSES]
    legend_inches = LEGEND_LINE_INCHES * (2 + (len(shown) + 2) // LEGEND_COLUMNS)
    heights = [COLUMN_INCHES * line[0].shape[0] / line[0].shape[1] + 0.3 for line in lines]
    total = sum(heights) + legend_inches + 0.2
    figure = Figure(figsize=(COLUMN_INCHES * len(COLUMNS), total), dpi=100, facecolor="white")
    top = total - 0.1
    for prediction, line, height in zip(predictions, lines, heights, strict=True):
        for column, panel in enumerate(line):
            box = (
                column / len(COLUMNS) + 0.004,
                (top - height) / total,
                1 / len(COLUMNS) - 0.008,
                (height - 0.3) / total,
            )
            axes = figure.add_axes(box)
            axes.imshow(panel, interpolation="nearest")
            axes.set_axis_off()
            title = _accuracy_title(prediction) if column == len(COLUMNS) - 1 else COLUMNS[column]
            axes.set_title(prediction.key if column == 0 else title, fontsize=9, pad=3, parse_math=False)
        top -= height
    patches = [Patch(color=tuple(colors[number]), label=classes[number].split(",")[0]) for number in shown]
    patches += [Patch(color=VOID_COLOR, label="void"), Patch(color=ERROR_COLOR, label="wrong")]
    figure.legend(handles=patches, loc="lower center", ncols=LEGEND_COLUMNS, fontsize=8, frameon=False)
    return figure


def class_scores_figure(classes: Sequence[str], iou: FloatArray, shares: FloatArray, title: str) -> Figure:
    """A bar of IoU for each class, the best first, with the class's share of the labelled pixels; both in percent.

    Classes that are neither there nor predicted (IoU NaN) come last, without a bar.
    """
    order = np.argsort(-np.nan_to_num(iou, nan=-1.0), kind="stable")
    height = 1.0 + BAR_INCHES * len(classes)
    figure = Figure(figsize=(9, height), dpi=100, facecolor="white")
    axes = figure.add_axes((0.24, 0.55 / height, 0.62, 1 - 1.0 / height))
    places = np.arange(len(classes))
    axes.barh(places, np.nan_to_num(iou[order]), color="#35a7ff")
    for place, number in enumerate(order):
        score = "not there" if np.isnan(iou[number]) else f"{iou[number]:.1f}"
        axes.text(101, place, f"{score}  ({shares[number]:.2g} % of pixels)", va="center", fontsize=7)
    names = [classes[number].split(",")[0][:30] for number in order]
    axes.set_yticks(places, names, fontsize=8, parse_math=False)
    axes.set_ylim(len(classes) - 0.4, -0.6)
    axes.set_xlim(0, 100)
    axes.set_xlabel("intersection over union, %", fontsize=9)
    axes.set_title(title, fontsize=10, parse_math=False)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def _panels(prediction: Prediction, colors: FloatArray) -> list[FloatArray]:
    height, width = prediction.label.shape
    factor = min(1.0, LONGEST_SIDE / max(height, width))
    size = [max(1, round(height * factor)), max(1, round(width * factor))]
    image = rearrange(functional.resize(prediction.image, size, antialias=True), "c y x -> y x c").numpy() / 255
    label = _nearest(prediction.label, size)
    predicted = _nearest(prediction.prediction, size)
    palette = np.concatenate([colors, np.tile(VOID_COLOR, (VOID + 1 - len(colors), 1))])
    errors = np.where((label == predicted)[..., None], RIGHT_COLOR, ERROR_COLOR)
    errors[label == VOID] = VOID_COLOR
    return [image, palette[label], palette[predicted], errors]


def _nearest(labels: Tensor, size: list[int]) -> npt.NDArray[np.int64]:
    resized = functional.resize(labels[None], size, interpolation=InterpolationMode.NEAREST)[0]
    return resized.cpu().numpy().astype(np.int64)


def _classes_by_area(predictions: Sequence[Prediction], classes: int) -> list[int]:
    maps = [part.cpu().numpy().ravel() for entry in predictions for part in (entry.label, entry.prediction)]
    counts = np.bincount(np.concatenate(maps).astype(np.int64), minlength=VOID + 1)[:classes]
    return [int(number) for number in np.argsort(-counts, kind="stable") if counts[number]]


def _accuracy_title(prediction: Prediction) -> str:
    valid = prediction.label != VOID
    right = (prediction.prediction[valid] == prediction.label[valid]).double().mean()
    return f"errors: {100 - 100 * float(right):.1f} % of pixels" if bool(valid.any()) else "no labels"
