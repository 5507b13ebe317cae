"""Total variation of the [CLS] similarity map: smooth maps instead of few regions."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from sar_dist.terms.map_term import MapTerm


class TotalVariation(MapTerm):
    """Half the mean squared difference of neighbouring similarities, over every head of every tapped block.

    The alternative to the spatial entropy in the ablation of Peruzzo et al., "Spatial entropy as an inductive bias for
    vision transformers", Machine Learning 2024. Their code (``TVLoss`` in ``attention_losses.py`` of helia95/SAR) sums over
    the pairs of neighbours where this takes the mean, so that the weight means the same on every grid: at 14 x 14 patches
    their weight is this one divided by 364, the number of pairs.
    """

    name: ClassVar[str] = "total_variation"
    label: ClassVar[str] = "total variation"

    def measure(self, similarity: Tensor) -> Tensor:
        return total_variation(similarity)


def total_variation(similarity: Tensor) -> Tensor:
    """Half the mean of (S_u - S_v)^2 over all pairs of patches u, v that share a side; 0 for a single patch.

    Args:
        similarity: (B, H, gh, gw).

    Returns:
        (B, H).
    """
    pairs = [similarity.diff(dim=dim).flatten(2) for dim in (2, 3)]  # each B H pairs
    squares = torch.cat(pairs, dim=2).square()
    return squares.sum(dim=2) / (2 * max(1, squares.shape[2]))
