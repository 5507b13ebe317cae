"""Cosine similarity between the outputs of a block's heads: heads that do different things."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from sar_dist.errors import UserError
from sar_dist.terms.term import TermScores, WeightedTerm


class HeadDiversity(WeightedTerm):
    """Mean cosine similarity of a head's output to those of the other heads, over the heads of every tapped block.

    The other alternative to the spatial entropy in the ablation of Peruzzo et al., Machine Learning 2024 (``DisReg`` in
    ``attention_losses.py`` of helia95/SAR), after Li et al., "Multi-head attention with disagreement regularization",
    EMNLP 2018, https://arxiv.org/abs/1810.10183, equation 8, here over pairs of different heads. A head's output is the
    attention times the values, before the projection, of all tokens as one vector.
    """

    name: ClassVar[str] = "head_diversity"
    label: ClassVar[str] = "similarity of the heads' outputs"

    def __call__(self, output: Mapping[str, Any]) -> TermScores:
        """Similarity of every head to the others of its block."""
        if len(output["heads"]) != len(output["queries"]):
            raise UserError("the blocks of this model do not give their heads' outputs; choose a plain ViT")
        similarities = torch.stack([head_similarity(heads) for heads in output["heads"]], dim=1)  # B blocks H
        return TermScores(similarities.mean(), {self.name: similarities})


def head_similarity(heads: Tensor) -> Tensor:
    """Mean cosine of each head's output with the outputs of the others.

    Args:
        heads: (B, H, N, d).

    Returns:
        (B, H), from -1 to 1; float32 (float64 for float64).

    Raises:
        UserError: there is one head only.
    """
    count = heads.shape[1]
    if count < 2:
        raise UserError("similarity between heads needs two of them, and the model has one head")
    vectors = heads.flatten(2)  # B H (N d)
    vectors = functional.normalize(vectors if vectors.dtype == torch.float64 else vectors.float(), dim=2)
    cosines = vectors @ vectors.transpose(1, 2)  # B H H
    others = 1 - torch.eye(count, dtype=cosines.dtype, device=cosines.device)
    return (cosines * others).sum(dim=2) / (count - 1)
