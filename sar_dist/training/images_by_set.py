"""What a run says of the data sets that its training images come from, where there are several."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import torch

from sar_dist import distributed
from sar_dist.data import TrainingSet


class ImagesBySet:
    """Counts the training images of each set on this process, until ``take`` adds them up over all.

    Args:
        names: of the sets, by number.
        device: on which processes add up.
    """

    def __init__(self, names: Sequence[str], device: torch.device) -> None:
        self._names = names
        self._device = device
        self._counts: Counter[int] = Counter()

    def add(self, by_set: Mapping[int, int]) -> None:
        """Count a micro-batch's images by number of their set."""
        self._counts.update(by_set)

    def take(self) -> dict[str, int]:
        """Images of each set on all processes since the last call; none where there is one set. Call on every process."""
        if len(self._names) < 2:
            return {}
        counts = torch.tensor([self._counts[number] for number in range(len(self._names))], device=self._device)
        self._counts.clear()
        return dict(zip(self._names, map(int, distributed.all_reduce_sum(counts).tolist()), strict=True))


def describe_sets(sets: Sequence[TrainingSet], epoch_samples: int | None) -> list[str]:
    """A line for each of several sets: its share, and what an epoch has of it."""
    if len(sets) < 2:
        return []
    weights = sum(each.weight for each in sets)
    epoch = epoch_samples or sum(each.manifest.total for each in sets)
    lines = []
    for each in sets:
        share, total = float(each.weight / weights), each.manifest.total
        classes = "" if each.classes is None else f"; its {len(each.classes)} classes matched by name"
        lines.append(
            f"training set {each.name}: {share:.2%} of the images, {total} samples, {epoch * share / total:.2f} passes an "
            f"epoch of {epoch}{classes}"
        )
    return lines
