"""The spatial entropy as a term of the loss; its settings are ``regularizer.*``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch

from sar_dist.config import RegularizerSettings, Settings
from sar_dist.quantities import Quantity, term_category, term_quantities, validation_quantities
from sar_dist.regularizer import spatial_entropy_from_query_key
from sar_dist.terms.term import TermScores, TermSetup, WeightedTerm

_CATEGORY = term_category("spatial entropy", "nats")
_COMPONENTS = ("components of a map", "components, by head")


class SpatialEntropy(WeightedTerm):
    """Mean spatial entropy of every head of every tapped block.

    Source: Peruzzo et al., "Spatial entropy as an inductive bias for vision transformers", Machine Learning 2024,
    section 3. The arithmetic is ``sar_dist.regularizer``.
    """

    name: ClassVar[str] = "entropy"
    region: ClassVar[str] = "spatial_entropy"
    settings_class: ClassVar[type[Settings]] = RegularizerSettings
    quantities: ClassVar[tuple[Quantity, ...]] = (
        *term_quantities("entropy", label="spatial entropy", unit="nats"),
        Quantity(
            "components",
            "train",
            "mean number of 8-connected components of a map",
            label="components of a map",
            chart=(_CATEGORY, _COMPONENTS[0]),
            panel=True,
        ),
        *validation_quantities(
            "components",
            "mean number of components, as above",
            label="components of a map",
            charts=(_CATEGORY, *_COMPONENTS),
            summed_up={"validation components a map": "last"},
        ),
    )

    def __init__(self, settings: RegularizerSettings, setup: TermSetup) -> None:
        super().__init__(settings, setup)
        self.backend = settings.backend

    def __call__(self, output: Mapping[str, Any]) -> TermScores:
        """Entropy in nats and number of components of every map."""
        grid = output.get("grid", self.setup.grid)
        results = [
            spatial_entropy_from_query_key(query, key, grid, self.backend, return_components=True)
            for query, key in zip(output["queries"], output["keys"], strict=True)
        ]
        entropies, components = (torch.stack(values, dim=1) for values in zip(*results, strict=True))  # B blocks H
        return TermScores(entropies.mean(), {"entropy": entropies, "components": components})
