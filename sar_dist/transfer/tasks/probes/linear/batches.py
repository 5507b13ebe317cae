"""Batches of frozen features to train heads on: the same bits at every process, whatever the number of processes.

The images of a step are a function of (seed, step). They are cut into sub-batches of a fixed size, which the processes
share; the features are gathered in order, so that every process has the whole batch and trains the same heads.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from typing import Protocol

import numpy as np
import torch
from einops import rearrange
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from sar_dist import distributed
from sar_dist.config import ImageSize, height_and_width
from sar_dist.keys import keyed_permutation
from sar_dist.transfer import Backbone, Features, LabelledImages, SampleSet, Transform
from sar_dist.transfer.tasks.probes import check_labels

# [CLS] tokens (B, L, C), mean patch token (B, C), labels (B,) of the images that could be read.
Batch = tuple[Tensor, Tensor, Tensor]


class SampleOrder:
    """An endless sequence of sample numbers: one random order of all of them after the other.

    Args:
        count: number of samples.
        seed: with the epoch, the key of each order.
    """

    def __init__(self, count: int, seed: int) -> None:
        self.count = count
        self.seed = seed

    def at(self, position: int) -> tuple[int, int]:
        """Epoch and sample number at ``position``."""
        epoch, place = divmod(position, self.count)
        return epoch, int(_permutation(self.seed, epoch, self.count)[place])


@functools.lru_cache(maxsize=4)
def _permutation(seed: int, epoch: int, count: int) -> NDArray[np.unsignedinteger]:
    return keyed_permutation(count, seed, "probe", epoch)


class FeatureBatches(Protocol):
    """Features of the batches of a training run.

    Attributes:
        left_out: a line on the images that were left out of the batches so far; "" if none was.
        labels: those of the samples that are trained on; None where not all of them were drawn yet.
    """

    @property
    def left_out(self) -> str: ...

    @property
    def labels(self) -> NDArray[np.int64] | None: ...

    def batches(self, start: int, stop: int) -> Iterator[Batch]:
        """The batches of steps ``start`` to ``stop - 1``, on the device. Call on every process. Raises UserError."""


class CachedBatches:
    """Batches of features that have been computed once, without augmentation.

    Args:
        features: ``tokens`` (n, L, C) and ``patch_mean`` (n, C); samples that could not be read are left out.
        global_batch: images per step.
        seed: of the order.
        device: where the batches go.
    """

    def __init__(self, features: Features, global_batch: int, seed: int, device: torch.device) -> None:
        self._features = features.good()
        bad = int(features.bad.sum())
        self.left_out = f"{bad} training images cannot be read, or have no label: they train nothing" if bad else ""
        self.labels: NDArray[np.int64] | None = self._features.labels
        self._order = SampleOrder(len(self._features.labels), seed)
        self._global_batch = global_batch
        self._device = device

    def batches(self, start: int, stop: int) -> Iterator[Batch]:
        for step in range(start, stop):
            positions = range(step * self._global_batch, (step + 1) * self._global_batch)
            chosen = np.array([self._order.at(position)[1] for position in positions])
            values = (self._features.values["tokens"], self._features.values["patch_mean"], self._features.labels)
            tokens, patch_mean, labels = (torch.from_numpy(value[chosen]).to(self._device) for value in values)
            yield tokens, patch_mean, labels


class AugmentedBatches:
    """Batches of features of images that are augmented anew in every epoch.

    Args:
        backbone: computes them.
        samples: training images.
        transform: bytes to uint8 (3, S, S), random.
        last_blocks: L.
        classes: labels must be below.
        global_batch: images per step.
        sub_batch: images per forward pass.
        seed: of order and augmentation.
        workers: data-loader processes.
    """

    def __init__(
        self,
        backbone: Backbone,
        samples: SampleSet,
        transform: Transform,
        *,
        last_blocks: int,
        classes: int,
        global_batch: int,
        sub_batch: int,
        seed: int,
        workers: int,
    ) -> None:
        self._backbone = backbone
        self._images = _AugmentedImages(samples, transform, backbone.image_size, SampleOrder(len(samples), seed))
        self._last_blocks = last_blocks
        self._classes = classes
        self._global_batch = global_batch
        self._sub_batch = min(sub_batch, global_batch)
        self._workers = workers
        self._from_start, self._drawn, self._left_out = False, 0, 0
        self._seen: set[int] = set()

    def batches(self, start: int, stop: int) -> Iterator[Batch]:
        self._from_start = start == 0
        parts = _Parts(self._positions, range(start, stop))
        loaded = iter(DataLoader(self._images, batch_sampler=parts, num_workers=self._workers))
        for step in range(start, stop):
            yield self._gathered(loaded, len(self._positions(step)))

    @property
    def left_out(self) -> str:
        if not self._left_out:
            return ""
        return f"{self._left_out} of the {self._drawn} images drawn for training cannot be read, or have no label: they train nothing"

    @property
    def labels(self) -> NDArray[np.int64] | None:
        whole = self._from_start and self._drawn >= self._images.count
        return np.array(sorted(self._seen), dtype=np.int64) if whole else None

    def _positions(self, step: int) -> list[range]:
        """This process's sub-batches of a step, as positions in the order of samples."""
        first, last = step * self._global_batch, (step + 1) * self._global_batch
        every = [range(at, min(at + self._sub_batch, last)) for at in range(first, last, self._sub_batch)]
        return every[distributed.rank() :: distributed.world_size()]

    def _gathered(self, loaded: Iterator[list[Tensor]], count: int) -> Batch:
        """Compute the next ``count`` sub-batches and put those of all processes in order."""
        device, width, blocks = self._backbone.device, self._backbone.width, self._last_blocks
        world, total = distributed.world_size(), self._global_batch
        slots = math.ceil(math.ceil(total / self._sub_batch) / world)
        # A process with fewer or shorter sub-batches sends zeros in their place, which are all at the end.
        values = torch.zeros(slots, self._sub_batch, blocks + 1, width, device=device)
        labels = torch.full((slots, self._sub_batch), -1, dtype=torch.int64)
        for slot in range(count):
            images, found, bad = next(loaded)
            tokens, patch_mean = self._backbone.tokens(self._backbone.normalise(images), blocks)
            values[slot, : len(found)] = torch.cat([tokens, patch_mean.unsqueeze(1)], dim=1)
            labels[slot, : len(found)] = torch.where(bad, -1, found)
        in_order = "process slot image ... -> (slot process image) ..."
        values = rearrange(distributed.all_gather(values), in_order)[:total]
        labels = rearrange(distributed.all_gather(labels.to(device)), in_order)[:total]
        check_labels(labels.cpu().numpy(), self._classes)
        readable = labels >= 0
        self._left_out += int((~readable).sum())
        self._drawn += total
        self._seen.update(labels[readable].unique().tolist())
        values, labels = values[readable], labels[readable]
        return values[:, :-1], values[:, -1], labels


class _Parts:
    """The sub-batches of a process, in the order in which they are asked for; made one by one, as a run can be long."""

    def __init__(self, positions: Callable[[int], list[range]], steps: range) -> None:
        self._positions = positions
        self._steps = steps

    def __iter__(self) -> Iterator[list[int]]:
        return (list(part) for step in self._steps for part in self._positions(step))

    def __len__(self) -> int:
        return sum(len(self._positions(step)) for step in self._steps)


class _AugmentedImages(Dataset[tuple[Tensor, int, bool]]):
    """The image, label and unreadability at a position; an image is augmented by (seed, epoch, number) alone."""

    def __init__(self, samples: SampleSet, transform: Transform, size: ImageSize, order: SampleOrder) -> None:
        self._samples = samples
        self._transform = transform
        self._blank = torch.zeros(3, *height_and_width(size), dtype=torch.uint8)
        self._order = order
        self.count = len(samples)

    def __getitem__(self, position: int) -> tuple[Tensor, int, bool]:
        epoch, number = self._order.at(position)
        key = (self._order.seed, epoch)
        _, image, label, bad = LabelledImages(self._samples, self._transform, self._blank, key)[number]
        return image, label, bad
