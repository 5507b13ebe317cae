"""Accuracy from ranked classes: top-1, top-5, mean over classes, of each class, and what is taken for what."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

TOP = 5


def class_metrics(
    order: NDArray[np.integer], labels: NDArray[np.int64], bad: NDArray[np.bool_], classes: int
) -> dict[str, float]:
    """``top1``, ``top5`` and ``mean_per_class`` (mean of the accuracies of the classes that occur), in percent.

    Args:
        order: (n, up to 5) predicted classes, best first; -1 for none.
        labels: (n,) true classes, -1 where unknown.
        bad: (n,) samples that could not be read; they count as wrong.
        classes: C.
    """
    hits = (order == labels[:, None]) & ~bad[:, None] & (labels >= 0)[:, None]
    return {
        "top1": 100 * float(hits[:, 0].mean()),
        "top5": 100 * float(hits[:, :TOP].any(axis=1).mean()),
        "mean_per_class": float(np.nanmean(class_accuracies(order, labels, bad, classes))),
    }


def class_accuracies(
    order: NDArray[np.integer], labels: NDArray[np.int64], bad: NDArray[np.bool_], classes: int
) -> NDArray[np.float64]:
    """Top-1 of each class in percent, (C,); NaN for a class without samples. Arguments as for ``class_metrics``."""
    known = labels >= 0
    hits = ((order[:, 0] == labels) & ~bad)[known]
    counts = np.bincount(labels[known], minlength=classes)
    correct = np.bincount(labels[known], weights=hits, minlength=classes)
    return np.where(counts > 0, 100 * correct / np.maximum(counts, 1), np.nan)


def confusion_counts(
    order: NDArray[np.integer], labels: NDArray[np.int64], bad: NDArray[np.bool_], classes: int
) -> Tensor:
    """(C, C) number of readable samples of class t predicted as class p."""
    kept = ~bad & (labels >= 0)
    flat = labels[kept] * classes + order[kept, 0]
    return torch.from_numpy(np.bincount(flat, minlength=classes * classes).reshape(classes, classes))


def chance_metrics(classes: int) -> dict[str, float]:
    """What guessing scores, in percent."""
    return {"top1": 100 / classes, "top5": 100 * min(TOP, classes) / classes, "mean_per_class": 100 / classes}


def class_table(
    names: Sequence[str], accuracies: NDArray[np.float64], labels: NDArray[np.int64]
) -> list[dict[str, Any]]:
    """Name, number of samples and top-1 of each class for the result file; null where a class has no sample."""
    counts = np.bincount(labels[labels >= 0], minlength=len(names))
    return [
        {"class": name, "samples": int(count), "top1": None if np.isnan(accuracy) else round(float(accuracy), 4)}
        for name, count, accuracy in zip(names, counts, accuracies, strict=True)
    ]
