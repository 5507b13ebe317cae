"""Scoring a split: every image once, at its original resolution, in one confusion matrix."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset

from sar_dist import distributed
from sar_dist.data.images import UndecodableImage
from sar_dist.progress import Progress
from sar_dist.transfer import Backbone
from sar_dist.transfer.tasks.segmentation.metrics import count_pixels
from sar_dist.transfer.tasks.segmentation.model import SegmentationModel
from sar_dist.transfer.tasks.segmentation.samples import VOID, SegmentationSamples
from sar_dist.transfer.tasks.segmentation.settings import SegmentationRecipe
from sar_dist.transfer.tasks.segmentation.sliding_window import Windows, resized_argmax, sliding_logits
from sar_dist.transfer.tasks.segmentation.transforms import evaluation_image


@dataclass(frozen=True)
class Predictor:
    """Classes of each pixel of an image.

    Attributes:
        windows: normalised (n, 3, crop, crop) to logits (n, C, crop, crop).
        normalise: uint8 (B, 3, h, w) to float32 on the device.
        recipe: crop and stride.
        batch: windows at a time.
    """

    windows: Windows
    normalise: Callable[[Tensor], Tensor]
    recipe: SegmentationRecipe
    batch: int

    def __call__(self, image: Tensor, size: tuple[int, int]) -> Tensor:
        """int64 (H, W) = ``size`` of a resized uint8 image (3, h, w)."""
        pixels = self.normalise(image[None])[0]
        logits = sliding_logits(
            self.windows, pixels, window=self.recipe.crop, stride=self.recipe.stride, batch=self.batch
        )
        return resized_argmax(logits, size)


def model_windows(model: SegmentationModel, backbone: Backbone) -> Windows:
    """The trained model as ``Predictor.windows``."""

    def windows(images: Tensor) -> Tensor:
        with torch.no_grad(), backbone.autocast():
            return model(images)[0]

    return windows


def count_confusions(
    data: SegmentationSamples,
    predict: Callable[[Tensor, tuple[int, int]], Tensor],
    recipe: SegmentationRecipe,
    *,
    workers: int,
    device: torch.device,
    say: Callable[[str], None],
) -> Tensor:
    """The confusion matrix of the whole split, int64 (C, C + 1) on the CPU, see ``metrics.count_pixels``.

    The samples are dealt out to the processes, without padding; that every one was scored once is asserted. An image
    that cannot be read is wrong at every pixel; where its map cannot be read there is nothing to score.
    """
    classes = len(data.classes)
    mine = list(range(distributed.rank(), len(data), distributed.world_size()))
    loader = DataLoader(Subset(ScoredImages(data, recipe), mine), batch_size=None, num_workers=workers)
    counts = torch.zeros(classes, classes + 1, dtype=torch.int64, device=device)
    scored: list[int] = []
    progress = Progress("scoring", len(mine), "images", say)
    for item in loader:
        label = item["label"].to(device)
        prediction = predict(item["image"], tuple(label.shape)) if item["readable"] else None
        counts += count_pixels(label, prediction, classes)
        scored.append(item["number"])
        progress.show(len(scored))
    everything = sorted(number for part in distributed.gather_objects(scored) for number in part)
    assert everything == list(range(len(data))), "every image must be scored exactly once"
    return distributed.all_reduce_sum(counts).cpu()


class ScoredImages(Dataset[dict[str, Any]]):
    """``number``, ``image`` uint8 (3, h, w) resized for the model, ``label`` (H, W) as it is, and whether ``readable``."""

    def __init__(self, data: SegmentationSamples, recipe: SegmentationRecipe) -> None:
        self._data = data
        self._recipe = recipe

    def __len__(self) -> int:
        return len(self._data)

    def __getitem__(self, number: int) -> dict[str, Any]:
        try:
            _, image, label = self._data.read(number)
        except UndecodableImage:
            alone = self._data.label_alone(number)
            nothing = torch.full((1, 1), VOID, dtype=torch.uint8)  # no pixel to score
            label = nothing if alone is None else alone
            return {"number": number, "image": torch.zeros(3, 1, 1), "label": label, "readable": False}
        resized = evaluation_image(image, self._recipe.short_side, self._recipe.long_side)
        return {"number": number, "image": resized, "label": label, "readable": True}
