"""Attention maps in a byte a patch: small enough to be kept of every step at which figures are drawn."""

from __future__ import annotations

import base64

import numpy as np
from torch import Tensor

from sar_dist.observe.attention_figures import COMPONENT_COLORS, mass_and_ranks

LEVELS = 16


def packed_maps(similarity: Tensor, component_labels: Tensor) -> str:
    """Maps as base64 of a byte for each patch: 16 x component + level.

    The component is 0 for the background, then by falling mass, and one more than there are colours for all further ones.
    The level tells how far the similarity is from the map's mean: in the background from its lowest value (0) to the mean
    (15), in a component from the mean to its highest value.

    Args:
        similarity: (..., gh, gw) similarity of [CLS] and patches.
        component_labels: as many integers, 0 for background.
    """
    shape = similarity.shape
    maps = similarity.detach().cpu().double().reshape(-1, *shape[-2:]).numpy()
    labels = component_labels.detach().cpu().long().reshape(-1, *shape[-2:]).numpy()
    packed = np.zeros(maps.shape, dtype=np.uint8)
    for number, (values, components) in enumerate(zip(maps, labels, strict=True)):
        mass, ranks = mass_and_ranks(values, components)
        above = mass / mass.max() if mass.max() > 0 else mass
        depth = values.mean() - values.min()
        below = (values - values.min()) / depth if depth > 0 else np.zeros_like(values)
        share = np.where(components > 0, above, np.clip(below, 0, 1))
        levels = np.nan_to_num(np.rint((LEVELS - 1) * share)).astype(np.uint8)
        packed[number] = LEVELS * np.minimum(ranks, len(COMPONENT_COLORS) + 1).astype(np.uint8) + levels
    return base64.b64encode(packed.tobytes()).decode()
