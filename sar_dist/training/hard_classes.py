"""The classes that a model recognizes least, what it takes them for, and images of them that it is most wrong about."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

HARDEST_CLASSES = 20
CLASSES_TAKEN_FOR = 3
EXAMPLES_OF_A_CLASS = 4


@dataclass(frozen=True, order=True)
class Mistake:
    """An image that is taken for another class; in order, the ones of a class with the highest loss come first.

    Attributes:
        label: its class.
        negative_loss: its cross-entropy, times -1.
        sample: its number.
        predicted: the class that it is taken for.
    """

    label: int
    negative_loss: float
    sample: int
    predicted: int


@dataclass(frozen=True)
class HardClass:
    """A class with little accuracy.

    Attributes:
        number: of the class.
        images, right: how many images it has, and how many of them are recognized.
        taken_for: the classes that the others are taken for most often, with the number of images.
        examples: the mistakes with the highest loss.
    """

    number: int
    images: int
    right: int
    taken_for: Sequence[tuple[int, int]]
    examples: Sequence[Mistake] = ()


def hardest_classes(confusion: Tensor) -> list[HardClass]:
    """The classes with the least accuracy, the hardest first, as far as they have mistakes; without examples.

    Args:
        confusion: int64 (C, C), ``[t, p]`` images of class t predicted as class p.
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


def find_mistakes(images: Tensor, classes: Sequence[HardClass]) -> list[Mistake]:
    """This process's examples of the classes, as many of each as are shown.

    Args:
        images: float64 (n, 4): label, loss times -1, number and predicted class of each image.
        classes: those that are looked for.
    """
    labels, _, _, predicted = images.unbind(dim=1)
    sought = torch.isin(labels, torch.tensor([each.number for each in classes], dtype=labels.dtype))
    wrong = images[sought & (labels != predicted)].nan_to_num(nan=-math.inf)
    found = (Mistake(int(label), loss, int(sample), int(taken)) for label, loss, sample, taken in wrong.tolist())
    return [mistake for shown in _examples(found).values() for mistake in shown]


def with_examples(classes: Sequence[HardClass], mistakes: Iterable[Sequence[Mistake]]) -> list[HardClass]:
    """The classes with their examples, from the mistakes of every process."""
    examples = _examples(mistake for of_process in mistakes for mistake in of_process)
    return [replace(each, examples=tuple(examples.get(each.number, ()))) for each in classes]


def _examples(mistakes: Iterable[Mistake]) -> dict[int, list[Mistake]]:
    """Those of each class that are shown."""
    by_class: dict[int, list[Mistake]] = {}
    for mistake in sorted(mistakes):
        shown = by_class.setdefault(mistake.label, [])
        if len(shown) < EXAMPLES_OF_A_CLASS:
            shown.append(mistake)
    return by_class
