"""The size of the training images of each step: a function of the seed and the number of the step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from sar_dist.data.images import Draw, Transform
from sar_dist.keys import keyed_permutation

SizeSchedule = Literal["random", "in_order"]


@dataclass(frozen=True)
class TrainSizes:
    """Sides of square training images.

    Attributes:
        sides: pixels; one that is there twice counts twice.
        schedule: "random", each step draws one of them; "in_order", one after the other, each for an equal part of training.
        seed: of the draws.
        steps: optimizer steps of the whole schedule.
    """

    sides: Sequence[int]
    schedule: SizeSchedule
    seed: int
    steps: int

    def at(self, step: int) -> int:
        """The side of the images of global batch ``step`` (from 0) of the run, on every process."""
        number = len(self.sides)
        if self.schedule == "in_order":
            return self.sides[min(step * number // self.steps, number - 1)]
        return self.sides[int(keyed_permutation(number, self.seed, "image size", step)[0])]


@dataclass(frozen=True)
class SizedTransforms:
    """What a loader makes of images whose size depends on the step.

    Attributes:
        sizes: the side for each step.
        views: by side: encoded bytes to uint8 (3, S, S), and what draws the operations on the device (None: nothing does).
    """

    sizes: TrainSizes
    views: Mapping[int, tuple[Transform, Draw | None]]

    @property
    def largest(self) -> int:
        return max(self.views)
