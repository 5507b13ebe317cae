"""Shannon entropy of the [CLS] attention: narrow attention, connected or not."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from sar_dist.terms.map_term import MapTerm


class AttentionEntropy(MapTerm):
    """Shannon entropy of the attention of [CLS] to the patches, over every head of every tapped block.

    The control for the spatial entropy (Peruzzo et al., Machine Learning 2024): it also makes the attention narrow, but
    does not see which patches are neighbours. The measure is that of Zhai et al., "Stabilizing Transformer training by
    preventing attention entropy collapse", ICML 2023, https://arxiv.org/abs/2303.06296, section 3, of the one row.
    """

    name: ClassVar[str] = "attention_entropy"
    label: ClassVar[str] = "entropy of the [CLS] attention"
    unit: ClassVar[str] = "nats"

    def measure(self, similarity: Tensor) -> Tensor:
        return attention_entropy(similarity)


def attention_entropy(similarity: Tensor) -> Tensor:
    """``-sum_u p_u log p_u`` in nats, with ``p`` the softmax of the similarities over all patches.

    Args:
        similarity: (B, H, gh, gw).

    Returns:
        (B, H), from 0 to log(gh * gw).
    """
    log_attention = similarity.flatten(2).log_softmax(dim=2)  # B H N
    return -(log_attention.exp() * log_attention).sum(dim=2)
