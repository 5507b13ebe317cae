"""What a validation knows beyond its metrics: which class is taken for which, and the spread of the entropy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from sar_dist import distributed

MAX_CONFUSION_CLASSES = 2000  # the matrix has the square of it as elements, on every process


@dataclass(frozen=True)
class GatheredDetails:
    """The details of all processes.

    Attributes:
        confusion: int64 (C, C), ``[t, p]`` images of class t predicted as class p; None above 2000 classes.
        distributions: ``entropy_head3`` and ``components_head3`` of the last tapped block, a value for each image.
    """

    confusion: Tensor | None
    distributions: Mapping[str, Tensor]


class ValidationDetails:
    """Collects the details of this process's share of a validation, without a device synchronisation.

    Args:
        num_classes: C.
        device: where the model runs.
    """

    def __init__(self, num_classes: int, device: torch.device) -> None:
        self._num_classes = num_classes
        countable = num_classes <= MAX_CONFUSION_CLASSES
        self._counts = torch.zeros(num_classes**2, dtype=torch.int64, device=device) if countable else None
        self._entropies: list[Tensor] = []
        self._components: list[Tensor] = []

    def add(self, labels: Tensor, predicted: Tensor, scored: Tensor, entropies: Tensor, components: Tensor) -> None:
        """Add a micro-batch.

        Args:
            labels, predicted: int64 (b,) true and most probable class.
            scored: bool (b,), False where there is no image.
            entropies, components: (b, blocks, H) of every map.
        """
        if self._counts is not None:
            known = scored & (labels < self._num_classes)
            self._counts.index_add_(0, torch.where(known, labels * self._num_classes + predicted, 0), known.long())
        missing = ~scored[:, None]
        self._entropies.append(entropies[:, -1].float().masked_fill(missing, torch.nan))
        self._components.append(components[:, -1].float().masked_fill(missing, torch.nan))

    def gather(self) -> GatheredDetails:
        """The details of all processes together. Call on every process."""
        confusion = None
        if self._counts is not None:
            confusion = distributed.all_reduce_sum(self._counts).view(self._num_classes, self._num_classes).cpu()
        mine = torch.stack([torch.cat(self._entropies), torch.cat(self._components)]).cpu()  # 2 n H
        maps = torch.cat(list(distributed.gather_objects(mine)), dim=1)
        maps = maps[:, ~maps[1, :, 0].isnan()]  # a map that is not finite has a NaN entropy, but a number of components
        distributions = {
            f"{name}_head{head}": values[:, head]
            for name, values in zip(("entropy", "components"), maps, strict=True)
            for head in range(values.shape[1])
        }
        return GatheredDetails(confusion, distributions)
