"""Scores of attention masks against object masks: Jaccard index by head, class, image and kept mass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sar_dist.transfer.tasks.attention.mass import BoolArray, FloatArray, patch_attention, top_mass_masks
from sar_dist.transfer.tasks.attention.regions import PatchRegions


@dataclass(frozen=True)
class ImageScores:
    """Jaccard indices, in 0..1, of one image with K classes under T kept masses and H heads.

    Attributes:
        heads: (T, K, H) of each head's mask.
        mean_attention: (T, K) of the mask of the attention averaged over the heads.
    """

    heads: FloatArray
    mean_attention: FloatArray

    def best_head(self) -> FloatArray:
        """(T,): the best head for each class, averaged over classes; the reference's score of an image."""
        return np.asarray(self.heads.max(axis=2).mean(axis=1), np.float64)


def jaccard(masks: BoolArray, regions: PatchRegions) -> FloatArray:
    """Intersection over union in pixels of patch masks (..., gh, gw) with each object: (..., K)."""
    flat = masks.reshape(*masks.shape[:-2], -1).astype(np.int64)  # ... N
    objects = regions.objects.reshape(-1, regions.valid.size)  # K N
    intersection = flat @ objects.T
    union = (flat @ regions.valid.reshape(-1))[..., None] + objects.sum(axis=1) - intersection
    return np.asarray(intersection / union, np.float64)


def score_image(similarity: NDArray[np.floating], regions: PatchRegions, masses: Sequence[float]) -> ImageScores:
    """All scores of one image from its similarity maps (H, gh, gw), for each share of the attention that is kept."""
    attention = patch_attention(similarity)
    maps = np.concatenate([attention, attention.mean(axis=0, keepdims=True)])  # H + 1, gh, gw
    scores = np.moveaxis(jaccard(top_mass_masks(maps, masses), regions), 1, 2)  # T K H+1
    return ImageScores(scores[:, :, :-1], scores[:, :, -1])


def no_scores(heads: int, regions: PatchRegions, masses: Sequence[float]) -> ImageScores:
    """Zeros: what an image that could not be read gets."""
    shape = (len(masses), len(regions.classes))
    return ImageScores(np.zeros((*shape, heads)), np.zeros(shape))


def uniform_score(regions: PatchRegions) -> float:
    """Jaccard index of attention without preference, which keeps every patch: the object's share of the pixels."""
    everything = np.ones_like(regions.valid, dtype=bool)
    return float(jaccard(everything, regions).mean())


def single_heads(scores: Sequence[ImageScores], number: int) -> FloatArray:
    """(H,): Jaccard index in percent that each head would have alone, at the ``number``-th mass."""
    return np.asarray(100 * np.mean([image.heads[number].mean(axis=0) for image in scores], axis=0), np.float64)


def summarise(scores: Sequence[ImageScores], number: int) -> dict[str, float]:
    """Percent, at the ``number``-th mass, averaged over classes and then over images.

    ``jaccard`` lets each object choose its head, as the reference does; ``jaccard_single_head`` chooses one head for the
    whole set, ``jaccard_average_head`` none; ``jaccard_mean_attention`` averages the attention before masking.
    """
    heads = single_heads(scores, number)
    return {
        "jaccard": 100 * float(np.mean([image.best_head()[number] for image in scores])),
        "jaccard_single_head": float(heads.max()),
        "jaccard_average_head": float(heads.mean()),
        "jaccard_mean_attention": 100 * float(np.mean([image.mean_attention[number].mean() for image in scores])),
    }


def sweep(scores: Sequence[ImageScores], masses: Sequence[float]) -> dict[str, list[float]]:
    """``jaccard`` and ``jaccard_mean_attention`` in percent for each of the masses."""
    summaries = [summarise(scores, number) for number in range(len(masses))]
    return {name: [summary[name] for summary in summaries] for name in ("jaccard", "jaccard_mean_attention")}


def class_means(scores: Sequence[ImageScores], classes: Sequence[Sequence[int]], number: int) -> dict[int, float]:
    """Percent of the best head by class, over the images that show it."""
    found: dict[int, list[float]] = {}
    for image, labels in zip(scores, classes, strict=True):
        for label, value in zip(labels, image.heads[number].max(axis=1), strict=True):
            found.setdefault(label, []).append(float(value))
    return {label: 100 * float(np.mean(values)) for label, values in sorted(found.items())}
