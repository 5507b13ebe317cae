"""What a validation knows beyond its metrics: which class is taken for which, and the spread of what terms measure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sar_dist import distributed

MAX_CONFUSION_CLASSES = 2000  # the matrix has the square of it as elements, on every process
HARDEST_CLASSES = 20
CLASSES_TAKEN_FOR = 3
EXAMPLES_OF_A_CLASS = 4


@dataclass(frozen=True, order=True)
class Mistake:
    """A validation image that is taken for another class; the ones with the highest loss come first.

    Attributes:
        label: its class.
        gain: its cross-entropy with the sign changed, so that the order is as above.
        sample: its number.
        predicted: the class that it is taken for.
    """

    label: int
    gain: float
    sample: int
    predicted: int


@dataclass(frozen=True)
class GatheredDetails:
    """The details of all processes.

    Attributes:
        confusion: int64 (C, C), ``[t, p]`` images of class t predicted as class p; None above 2000 classes.
        mistakes: of each class the images with the highest losses that are taken for another one, by class.
        distributions: what the terms measure, a value for each image; of values for each head those of the last tapped
            block, as ``entropy_head3``.
    """

    confusion: Tensor | None
    mistakes: Sequence[Mistake]
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
        self._scored.append(scored)
        columns = (labels, -losses, samples, predicted)
        self._images.append(torch.stack([column.double() for column in columns], dim=1))  # b 4, exact up to 2**53
        for name, values in measures.items():
            self._measures.setdefault(name, []).append((values[:, -1] if values.ndim > 1 else values).float())

    def gather(self) -> GatheredDetails:
        """The details of all processes together. Call on every process."""
        confusion = None
        if self._counts is not None:
            confusion = distributed.all_reduce_sum(self._counts).view(self._num_classes, self._num_classes).cpu()
        scored = torch.cat(self._scored).cpu()
        worst = _worst(torch.cat(self._images).cpu()[scored])
        mistakes = _first_of_each_class(each for mine in distributed.gather_objects(worst) for each in mine)
        mine = {name: torch.cat(values).cpu()[scored] for name, values in self._measures.items()}  # each n or n H
        everyones = distributed.gather_objects(mine)
        distributions: dict[str, Tensor] = {}
        for name in mine:
            values = torch.cat([measures[name] for measures in everyones])
            if values.ndim == 1:
                distributions[name] = values
            else:
                distributions |= {f"{name}_head{head}": of_head for head, of_head in enumerate(values.unbind(dim=1))}
        return GatheredDetails(confusion, mistakes, distributions)


@dataclass(frozen=True)
class HardClass:
    """A class with little accuracy.

    Attributes:
        number: of the class.
        images, right: how many images it has, and how many of them are recognized.
        taken_for: the classes that the others are taken for most often, with the number of images.
    """

    number: int
    images: int
    right: int
    taken_for: Sequence[tuple[int, int]]


def hardest_classes(confusion: Tensor) -> list[HardClass]:
    """The classes with the least accuracy, the hardest first, as far as they have mistakes.

    Args:
        confusion: int64 (C, C), as in ``GatheredDetails``.
    """
    images, right = confusion.sum(dim=1), confusion.diagonal()
    accuracy = right.double() / images.clamp(min=1)
    order = torch.argsort(accuracy, stable=True).tolist()
    wrong = [number for number in order if images[number] > right[number]]
    found = []
    for number in wrong[:HARDEST_CLASSES]:
        others = confusion[number].clone()
        others[number] = 0
        most = torch.argsort(others, descending=True, stable=True)[:CLASSES_TAKEN_FOR].tolist()
        taken_for = [(other, int(others[other])) for other in most if others[other]]
        found.append(HardClass(number, int(images[number]), int(right[number]), taken_for))
    return found


def _worst(images: Tensor) -> list[Mistake]:
    """The mistakes among this process's images (n, 4)."""
    labels, _, _, predicted = images.unbind(dim=1)
    wrong = images[labels != predicted].nan_to_num(nan=-math.inf)
    found = (Mistake(int(label), gain, int(sample), int(taken)) for label, gain, sample, taken in wrong.tolist())
    return _first_of_each_class(found)


def _first_of_each_class(mistakes: Iterable[Mistake]) -> list[Mistake]:
    by_class: dict[int, list[Mistake]] = {}
    for mistake in sorted(mistakes):
        of_class = by_class.setdefault(mistake.label, [])
        if len(of_class) < EXAMPLES_OF_A_CLASS:
            of_class.append(mistake)
    return [mistake for of_class in by_class.values() for mistake in of_class]
