"""What a validation knows beyond its metrics: which class is taken for which, and the spread of what terms measure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sar_dist import distributed
from sar_dist.training.hard_classes import HardClass, find_mistakes, hardest_classes, with_examples

MAX_CONFUSION_CLASSES = 2000  # the matrix has the square of it as elements, on every process


@dataclass(frozen=True)
class GatheredDetails:
    """The details of all processes.

    Attributes:
        confusion: int64 (C, C), ``[t, p]`` images of class t predicted as class p; None above 2000 classes.
        hardest: the classes with the least accuracy; none above 2000 classes.
        distributions: what the terms measure, a value for each image; of values for each head those of the last tapped
            block, as ``entropy_head3``.
    """

    confusion: Tensor | None
    hardest: Sequence[HardClass]
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
        self._scored: list[Tensor] = []
        self._images: list[Tensor] = []
        self._measures: dict[str, list[Tensor]] = {}

    def add(
        self,
        labels: Tensor,
        predicted: Tensor,
        scored: Tensor,
        measures: Mapping[str, Tensor],
        *,
        losses: Tensor,
        samples: Tensor,
    ) -> None:
        """Add a micro-batch.

        Args:
            labels, predicted: int64 (b,) true and most probable class.
            scored: bool (b,), False where there is no image.
            losses: float (b,) cross-entropies.
            samples: int64 (b,) numbers of the samples.
            measures: of each image by name, (b,) or (b, blocks, H).
        """
        if self._counts is not None:
            known = scored & (labels < self._num_classes)
            self._counts.index_add_(0, torch.where(known, labels * self._num_classes + predicted, 0), known.long())
            columns = (labels, -losses, samples, predicted)
            self._images.append(torch.stack([column.double() for column in columns], dim=1))  # b 4, exact up to 2**53
        self._scored.append(scored)
        for name, values in measures.items():
            self._measures.setdefault(name, []).append((values[:, -1] if values.ndim > 1 else values).float())

    def gather(self) -> GatheredDetails:
        """The details of all processes together. Call on every process."""
        confusion = None
        if self._counts is not None:
            confusion = distributed.all_reduce_sum(self._counts).view(self._num_classes, self._num_classes).cpu()
        scored = torch.cat(self._scored).cpu()
        hardest = []
        if confusion is not None:
            hardest = hardest_classes(confusion)
            mistakes = find_mistakes(torch.cat(self._images).cpu()[scored], hardest)
            hardest = with_examples(hardest, distributed.gather_objects(mistakes))
        mine = {name: torch.cat(values).cpu()[scored] for name, values in self._measures.items()}  # each n or n H
        everyones = distributed.gather_objects(mine)
        distributions: dict[str, Tensor] = {}
        for name in mine:
            values = torch.cat([measures[name] for measures in everyones])
            if values.ndim == 1:
                distributions[name] = values
            else:
                distributions |= {f"{name}_head{head}": of_head for head, of_head in enumerate(values.unbind(dim=1))}
        return GatheredDetails(confusion, hardest, distributions)
