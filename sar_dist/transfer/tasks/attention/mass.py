"""Attention maps to masks: the patches that hold the largest part of a map's attention. Arithmetic only, no models.

As DINO draws its attention and as SAR (Peruzzo et al. 2022, ``evaluate_segmentation.py``) scores it: patches are sorted
by attention, and those are kept whose cumulative sum, from the smallest, exceeds 1 - mass.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]


def patch_attention(similarity: NDArray[np.floating]) -> FloatArray:
    """Attention of [CLS] to the patches, made to sum to 1 over them: (..., gh, gw) of the same shape.

    Args:
        similarity: (..., gh, gw) scaled products before the softmax, see ``Backbone.similarity``. What the softmax gives
            to [CLS] itself and to registers drops out of the quotient.
    """
    shifted = similarity.astype(np.float64) - similarity.max(axis=(-2, -1), keepdims=True)
    weights = np.exp(shifted)
    attention: FloatArray = weights / weights.sum(axis=(-2, -1), keepdims=True)
    return attention


def top_mass_mask(attention: NDArray[np.floating], mass: float) -> BoolArray:
    """The patches with the largest attention that together hold about ``mass`` of it, (..., gh, gw).

    Args:
        attention: (..., gh, gw), not negative, of any sum above 0.
        mass: share in (0, 1]; the patch at which the sum reaches it is kept. Of equal patches the later ones in raster
            order are kept first, on every machine.
    """
    return top_mass_masks(attention, [mass])[0]


def top_mass_masks(attention: NDArray[np.floating], masses: Sequence[float]) -> BoolArray:
    """``top_mass_mask`` for each of ``masses`` with one sort: (len(masses), ..., gh, gw)."""
    flat = attention.reshape(*attention.shape[:-2], -1).astype(np.float64)  # ... N
    order = np.argsort(flat, axis=-1, kind="stable")
    ascending = np.take_along_axis(flat, order, axis=-1)
    cumulative = np.cumsum(ascending / ascending.sum(axis=-1, keepdims=True), axis=-1)
    masks = np.zeros((len(masses), *flat.shape), dtype=bool)
    for mask, mass in zip(masks, masses, strict=True):
        np.put_along_axis(mask, order, cumulative > 1 - mass, axis=-1)
    return masks.reshape(len(masses), *attention.shape)
