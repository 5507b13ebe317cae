"""Scores of the robustness sets from predicted classes; arithmetic only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.int64]

# Top-1 error of AlexNet, mean over the five severities (Hendrycks and Dietterich 2019, robustness/ImageNet-C/test.py).
ALEXNET_ERRORS = {
    "gaussian_noise": 0.886428,
    "shot_noise": 0.894468,
    "impulse_noise": 0.922640,
    "defocus_blur": 0.819880,
    "glass_blur": 0.826268,
    "motion_blur": 0.785948,
    "zoom_blur": 0.798360,
    "snow": 0.866816,
    "frost": 0.826572,
    "fog": 0.819324,
    "brightness": 0.564592,
    "contrast": 0.853204,
    "elastic_transform": 0.646056,
    "pixelate": 0.717840,
    "jpeg_compression": 0.606500,
}
CORRUPTIONS = tuple(ALEXNET_ERRORS)
SEVERITIES = (1, 2, 3, 4, 5)


def top_accuracies(predictions: IntArray, labels: IntArray, bad: NDArray[np.bool_]) -> dict[str, float]:
    """Top-1 and top-5 in percent; a sample that could not be read counts as wrong.

    Args:
        predictions: (n, 5) classes, best first.
        labels: (n,).
        bad: (n,) which samples could not be read.
    """
    hits = (predictions == labels[:, None]) & ~bad[:, None]
    return {"top1": 100 * float(hits[:, 0].mean()), "top5": 100 * float(hits.any(axis=1).mean())}


def real_top1(predictions: IntArray, right: Sequence[frozenset[int]], bad: NDArray[np.bool_]) -> tuple[float, int]:
    """Share of the images whose first prediction is in their label set, in percent, and how many images have a set.

    Args:
        predictions: (n, 5) classes, best first.
        right: n label sets; an image with an empty one is not scored, read or not.
        bad: (n,) which samples could not be read; they count as wrong.
    """
    hits = [
        int(first) in labels and not unreadable
        for first, labels, unreadable in zip(predictions[:, 0], right, bad, strict=True)
        if labels
    ]
    return (100 * float(np.mean(hits)) if hits else 0.0), len(hits)


def corruption_errors(errors: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """CE of each corruption in percent: the sum of the errors over the severities over AlexNet's.

    Args:
        errors: corruption -> top-1 error, in 0..1, at each of the severities.
    """
    return {name: 100 * sum(values) / (len(values) * ALEXNET_ERRORS[name]) for name, values in errors.items()}


def mean_corruption_error(errors: Mapping[str, Sequence[float]]) -> float:
    """mCE in percent: the mean of ``corruption_errors``; AlexNet's is 100."""
    return float(np.mean(list(corruption_errors(errors).values())))
