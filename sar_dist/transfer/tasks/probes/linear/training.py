"""Training of a sweep of linear heads."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from sar_dist.transfer.tasks.probes.linear.batches import Batch, FeatureBatches
from sar_dist.transfer.tasks.probes.linear.heads import HeadSweep
from sar_dist.transfer.tasks.probes.linear.recipes import ProbeRecipe

LEAST_SAMPLES = 2  # of a step; batch normalisation has no variance below


class HeadTraining:
    """Training of all heads of a sweep, as ``transfer.train_resumably`` takes it.

    Args:
        sweep: heads as they were made.
        stream: gives the features of each step.
        recipe: length and learning rates.
    """

    def __init__(self, sweep: HeadSweep, stream: FeatureBatches, recipe: ProbeRecipe) -> None:
        self._sweep = sweep
        self._stream = stream
        self._recipe = recipe
        self._best = _BestHead(sweep)

    @property
    def steps(self) -> int:
        return self._recipe.iterations

    @property
    def identity(self) -> str:
        return json.dumps([str(spec) for spec in self._sweep.specs])

    def batches(self, first: int) -> Iterable[Batch]:
        return self._stream.batches(first, self.steps)

    def step(self, number: int, batch: Batch) -> None:
        tokens, patch_mean, labels = batch
        if len(labels) < LEAST_SAMPLES:
            return
        losses, hits = self._sweep.step(tokens, patch_mean, labels, self._recipe.rate_factor(number))
        self._best.add(losses, hits, len(labels))

    def describe(self) -> str:
        return self._best.describe()

    def check(self, number: int) -> None:
        """Nothing: a head whose learning rate is too high is one of many."""

    def tensors(self) -> Mapping[str, Tensor]:
        return self._sweep.tensors()

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        self._sweep.load(dict(tensors))


class _BestHead:
    """Loss and accuracy of each head since the last line, and what is said of the best one. Reads the device only then."""

    def __init__(self, sweep: HeadSweep) -> None:
        self._specs = sweep.specs
        self._losses = self._hits = torch.zeros(len(sweep.specs), device=sweep.device)
        self._steps = self._images = 0

    def add(self, losses: Tensor, hits: Tensor, images: int) -> None:
        """Take in a step."""
        self._losses, self._hits = self._losses + losses, self._hits + hits
        self._steps, self._images = self._steps + 1, self._images + images

    def describe(self) -> str:
        """The best head so far; begins anew."""
        best = int(torch.nan_to_num(self._losses, nan=torch.inf).argmin())
        loss, hits = (
            float(self._losses[best]) / max(self._steps, 1),
            100 * float(self._hits[best]) / max(self._images, 1),
        )
        self._losses, self._hits = torch.zeros_like(self._losses), torch.zeros_like(self._hits)
        self._steps = self._images = 0
        return f"loss {loss:.4f}, top-1 {hits:.2f} % on training batches, best head: {self._specs[best]}"
