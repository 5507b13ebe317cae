"""Accuracy from ranked classes: top-1, top-5, mean over classes, of each class, and what is taken for what."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from sar_dist.observe import confusion_figure
from sar_dist.transfer.class_figures import class_accuracy_figure
from sar_dist.transfer.features import Features

TOP = 5


@dataclass(frozen=True)
class ClassificationScores:
    """How well ranked classes agree with labels, in percent. Samples that could not be read count as wrong.

    Attributes:
        order: (n, up to 5) predicted classes, best first; -1 for none.
        labels: (n,) true classes, -1 where unknown.
        bad: (n,) samples that could not be read.
        classes: C.
    """

    order: NDArray[np.integer]
    labels: NDArray[np.int64]
    bad: NDArray[np.bool_]
    classes: int

    @classmethod
    def of(cls, order: NDArray[np.integer], features: Features, classes: int) -> ClassificationScores:
        """Scores of the predictions ``order`` (n, up to 5) of the samples whose ``features`` were extracted."""
        return cls(order, features.labels, features.bad, classes)

    @property
    def samples(self) -> int:
        """How many samples are scored."""
        return len(self.labels)

    @property
    def skipped(self) -> int:
        """How many of them could not be read."""
        return int(self.bad.sum())

    @cached_property
    def metrics(self) -> dict[str, float]:
        """``top1``, ``top5`` and ``mean_per_class``, the mean of the accuracies of the classes that occur."""
        hits = (self.order == self.labels[:, None]) & ~self.bad[:, None] & (self.labels >= 0)[:, None]
        return {
            "top1": 100 * float(hits[:, 0].mean()),
            "top5": 100 * float(hits[:, :TOP].any(axis=1).mean()),
            "mean_per_class": float(np.nanmean(self.accuracies)),
        }

    @cached_property
    def accuracies(self) -> NDArray[np.float64]:
        """Top-1 of each class, (C,); NaN for a class without samples."""
        known = self.labels >= 0
        hits = ((self.order[:, 0] == self.labels) & ~self.bad)[known]
        counts = np.bincount(self.labels[known], minlength=self.classes)
        correct = np.bincount(self.labels[known], weights=hits, minlength=self.classes)
        return np.where(counts > 0, 100 * correct / np.maximum(counts, 1), np.nan)

    @property
    def chance(self) -> dict[str, float]:
        """What guessing scores, by the names of ``metrics``."""
        top1 = 100 / self.classes
        return {"top1": top1, "top5": 100 * min(TOP, self.classes) / self.classes, "mean_per_class": top1}

    @property
    def confusion(self) -> Tensor:
        """(C, C) number of readable samples of class t predicted as class p."""
        kept = ~self.bad & (self.labels >= 0)
        flat = self.labels[kept] * self.classes + self.order[kept, 0]
        counts = np.bincount(flat, minlength=self.classes * self.classes)
        return torch.from_numpy(counts.reshape(self.classes, self.classes))

    def table(self, names: Sequence[str]) -> list[dict[str, Any]]:
        """Name, number of samples and top-1 of each class for the result file; null where a class has no sample."""
        counts = np.bincount(self.labels[self.labels >= 0], minlength=len(names))
        return [
            {"class": name, "samples": int(count), "top1": None if np.isnan(accuracy) else round(float(accuracy), 4)}
            for name, count, accuracy in zip(names, counts, self.accuracies, strict=True)
        ]

    def figures(self, names: Sequence[str], title: str) -> dict[str, Callable[[], Figure]]:
        """What draws ``class_accuracy``, under ``title``, and ``confusion``."""
        return {
            "class_accuracy": lambda: class_accuracy_figure(self.accuracies, names, title),
            "confusion": lambda: confusion_figure(self.confusion, names),
        }
