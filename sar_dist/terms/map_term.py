"""A term that measures each similarity map by itself."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from sar_dist.regularizer import class_similarity
from sar_dist.terms.term import TermScores, WeightedTerm


class MapTerm(WeightedTerm):
    """The mean of what ``measure`` says of the [CLS] map of every head of every tapped block."""

    @abstractmethod
    def measure(self, similarity: Tensor) -> Tensor:
        """(B, H) of the maps (B, H, gh, gw) of a block, before the softmax."""

    def __call__(self, output: Mapping[str, Any]) -> TermScores:
        """The measure of every map."""
        maps, grid = zip(output["queries"], output["keys"], strict=True), output.get("grid", self.setup.grid)
        measured = [self.measure(class_similarity(query, key, grid)) for query, key in maps]
        values = torch.stack(measured, dim=1)  # B blocks H
        return TermScores(values.mean(), {self.name: values})
