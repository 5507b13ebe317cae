"""What a training run remembers beside weights, optimizer and data: a few numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any

from pydantic import Field, FiniteFloat

Count = Annotated[int, Field(ge=0, le=2**53)]


LOSS_HISTORY = 20
"""Logging intervals that the usual loss is the median of."""


@dataclass
class GuardState:
    """What the guard has seen so far. A rollback takes nothing of it back, so that it cannot happen for ever.

    Attributes:
        rollbacks: how often the run needed to go back to earlier weights.
        skipped_in_a_row: steps that were skipped since the last one that was applied, or since the last rollback.
        usual_losses: means of the last logging intervals, the oldest first, without the spikes.
    """

    rollbacks: Count = 0
    skipped_in_a_row: Count = 0
    usual_losses: Annotated[list[FiniteFloat], Field(max_length=LOSS_HISTORY)] = field(default_factory=list)


@dataclass
class TrainState:
    """Progress of a run. All of it is in every checkpoint, so that a resumed run is the unbroken one.

    Attributes:
        step: optimizer steps done, skipped ones included; also the number of global batches consumed.
        images: training images consumed.
        bad_images: training images that could not be decoded and were replaced.
        images_by_set: those of each data set by its name, where there are several.
        best_top1: best validation top-1 accuracy so far, in percent.
        best_step: the step at which it was reached.
        settled: whether what is due after this step (log, validation, pictures) has been done. A stop in the middle of it
            saves before; the next start does it first.
        guard: what the guard has seen; nothing in checkpoints from before it was kept.
        validation_set: what tells the set of the scores from others; None in checkpoints from before it was kept.
    """

    step: Count = 0
    images: Count = 0
    bad_images: Count = 0
    images_by_set: dict[str, Count] = field(default_factory=dict)
    best_top1: Annotated[float, Field(ge=0, le=100)] | None = None
    best_step: Count | None = None
    settled: bool = True
    guard: GuardState = field(default_factory=GuardState)
    validation_set: dict[str, str | None] | None = None

    def add_counts(self, bad_images: int, images_by_set: Mapping[str, int]) -> None:
        """Add images that could not be decoded, and those of each training set."""
        self.bad_images += bad_images
        for name, count in images_by_set.items():
            self.images_by_set[name] = self.images_by_set.get(name, 0) + count

    def to_json(self) -> dict[str, Any]:
        return asdict(self)
