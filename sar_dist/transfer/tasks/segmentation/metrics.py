"""Scores of a segmentation: one confusion matrix over the whole set, which is additive over images and processes."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sar_dist.transfer.tasks.segmentation.samples import VOID

FloatArray = npt.NDArray[np.float64]


def count_pixels(label: Tensor, prediction: Tensor | None, classes: int) -> Tensor:
    """Pixels of an image by true class (row) and predicted class (column), without void.

    Args:
        label: uint8 (H, W), 255 for void.
        prediction: int64 (H, W); None where there is no prediction, which is wrong everywhere.
        classes: C.

    Returns:
        int64 (C, C + 1); the last column counts pixels without a prediction.
    """
    valid = label != VOID
    rows = label[valid].long()
    columns = torch.full_like(rows, classes) if prediction is None else prediction[valid]
    counts = torch.bincount(rows * (classes + 1) + columns, minlength=classes * (classes + 1))
    return counts.view(classes, classes + 1)


def majority_counts(counts: Tensor, majority: int) -> Tensor:
    """The confusion matrix (C, C + 1) on the same pixels of a model that always says ``majority``."""
    result = torch.zeros_like(counts)
    result[:, majority] = counts.sum(dim=1)
    return result


def class_iou(counts: Tensor) -> FloatArray:
    """Intersection over union of each class in percent, (C,); NaN for one that is neither there nor predicted."""
    matrix = counts.cpu().numpy().astype(np.float64)
    hits = np.diagonal(matrix)
    return _percent(hits, matrix.sum(axis=1) + matrix[:, : len(matrix)].sum(axis=0) - hits)


def class_accuracy(counts: Tensor) -> FloatArray:
    """Share of each class's pixels that are right in percent, (C,); NaN for a class that is not there."""
    matrix = counts.cpu().numpy().astype(np.float64)
    return _percent(np.diagonal(matrix), matrix.sum(axis=1))


def scores(counts: Tensor) -> dict[str, float]:
    """``mIoU`` (mean over the classes that have a union), ``mAcc`` and ``aAcc`` (all pixels), in percent."""
    matrix = counts.cpu().numpy().astype(np.float64)
    return {
        "mIoU": float(np.nanmean(class_iou(counts))),
        "mAcc": float(np.nanmean(class_accuracy(counts))),
        "aAcc": float(100 * np.trace(matrix) / matrix.sum()),
    }


def _percent(part: FloatArray, whole: FloatArray) -> FloatArray:
    return np.divide(100 * part, whole, out=np.full_like(whole, np.nan), where=whole > 0)
