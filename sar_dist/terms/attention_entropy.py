"""Shannon entropy of the [CLS] attention: narrow attention, connected or not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from sar_dist.regularizer import class_similarity
from sar_dist.terms.term import TermScores, WeightedTerm


class AttentionEntropy(WeightedTerm):
    """Shannon entropy of the attention of [CLS] to the patches, over every head of every tapped block.

    The control for the spatial entropy (Peruzzo et al., Machine Learning 2024): it also makes the attention narrow, but
    does not see which patches are neighbours. The measure is that of Zhai et al., "Stabilizing Transformer training by
    preventing attention entropy collapse", ICML 2023, https://arxiv.org/abs/2303.06296, section 3, of the one row.
    """

    name: ClassVar[str] = "attention_entropy"
    label: ClassVar[str] = "entropy of the [CLS] attention"
    unit: ClassVar[str] = "nats"

    def __call__(self, output: Mapping[str, Any]) -> TermScores:
        """Entropy of every head's row."""
        entropies = torch.stack(
            [
                attention_entropy(class_similarity(query, key, self.setup.grid))
                for query, key in zip(output["queries"], output["keys"], strict=True)
            ],
            dim=1,
        )  # B blocks H
        return TermScores(entropies.mean(), {self.name: entropies})


def attention_entropy(similarity: Tensor) -> Tensor:
    """``-sum_u p_u log p_u`` in nats, with ``p`` the softmax of the similarities over all patches.

    Args:
        similarity: (B, H, gh, gw).

    Returns:
        (B, H), from 0 to log(gh * gw).
    """
    log_attention = similarity.flatten(2).log_softmax(dim=2)  # B H N
    return -(log_attention.exp() * log_attention).sum(dim=2)
