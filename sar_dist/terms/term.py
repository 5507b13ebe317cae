"""A term of the loss beside the cross-entropy: what the task asks of it, and the base that most of them begin from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from sar_dist.config import AugmentSettings, Settings, TermSettings
from sar_dist.quantities import Quantity, term_quantities
from sar_dist.regularizer import regularizer_weight


class TermScores(NamedTuple):
    """What a term finds in one micro-batch.

    Attributes:
        loss: scalar; what the term's weight multiplies.
        per_sample: measures of each image by name: (B,), or (B, blocks, heads) for those of every map. Validation
            averages them over its images, training logs the mean of those that are not called like the term itself, whose
            mean is the loss.
    """

    loss: Tensor
    per_sample: Mapping[str, Tensor]


@dataclass(frozen=True)
class TermSetup:
    """What a term may know of its run.

    Attributes:
        grid: rows and columns of the model's patches, of images of its own size; the output has those of its images.
        epochs: length of the training.
        num_classes: classes of the model.
        device: where micro-batches are.
        precision: of training, as ``engine.precision``.
        mean, std: of the channels, by which the images were normalised.
    """

    grid: tuple[int, int]
    epochs: float
    num_classes: int
    device: torch.device
    precision: str = "fp32"
    mean: tuple[float, float, float] = AugmentSettings().mean
    std: tuple[float, float, float] = AugmentSettings().std


@runtime_checkable
class Term(Protocol):
    """One summand of the loss, ``weight(epoch) * loss``.

    It is called outside the engine, in float32, where autocast is off, on every process and in every step alike, and in
    validation without gradients. It has no parameters that are trained, and no state: what it gives follows from its
    settings and its argument, so that there is nothing to save.

    Attributes:
        name: what its numbers are called in the log: ``loss_NAME``, ``NAME_weight``.
        region: the part of a step's time that it belongs to, one of ``sar_dist.observe.PARTS``.
        is_trained: False: it is measured in validation, but no part of the loss. The same on every process and in every
            step: under ZeRO-3, a term that comes and goes would hang the processes that wait for its gradient.
        quantities: what it logs.
    """

    name: str
    region: str
    quantities: tuple[Quantity, ...]

    @property
    def is_trained(self) -> bool: ...

    def weight(self, epoch: float) -> float:
        """The weight in the loss after ``epoch`` (fractional) epochs."""

    def __call__(self, output: Mapping[str, Any]) -> TermScores:
        """Score a micro-batch.

        Args:
            output: of the model: ``logits`` (B, classes), ``queries``, ``keys`` and ``heads``, one (B, heads, d), one
                (B, heads, gh * gw, d) and one (B, heads, tokens, d) for each block of ``regularizer.blocks``; their
                ``grid`` (gh, gw), which changes with ``model.train_sizes``; and its ``images`` (B, 3, S, S).
        """

    def prepare(self, model: Any) -> None:
        """Ask of the model (a ``TappedVisionTransformer``) what the term needs. Called once, before anything is trained.

        Raises:
            UserError: the model does not have it.
        """

    def training_flops(self, output: Mapping[str, Any]) -> float:
        """FLOPs of the term on one image in training, forward and backward; ``output`` is of a small random batch."""

    @property
    def held_bytes(self) -> int:
        """Bytes that the term keeps on every process's device."""


class WeightedTerm:
    """A term whose weight follows the schedule of the regularizer: a linear ramp, then a cosine to zero or nothing.

    A subclass sets ``name``, may set the other class attributes, and defines ``__call__``.

    Attributes:
        label: what people call it; by default the name with spaces.
        unit: of its values.
        settings_class: the settings of its entry in ``terms``.
        quantities: what it logs; by default its loss, its weight and its value in validation, over all and by head.
    """

    name: ClassVar[str]
    label: ClassVar[str] = ""
    unit: ClassVar[str] = ""
    region: ClassVar[str] = "terms"
    settings_class: ClassVar[type[Settings]] = TermSettings
    quantities: ClassVar[tuple[Quantity, ...]]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "quantities" not in vars(cls) and hasattr(cls, "name"):
            cls.quantities = term_quantities(cls.name, label=cls.label, unit=cls.unit)

    def __init__(self, settings: TermSettings, setup: TermSetup) -> None:
        self.settings = settings
        self.setup = setup

    @property
    def is_trained(self) -> bool:
        """A weight of 0 turns the term off."""
        return self.settings.weight > 0

    def weight(self, epoch: float) -> float:
        """Weight in the loss after ``epoch`` (fractional) epochs."""
        return regularizer_weight(
            epoch,
            weight=self.settings.weight,
            ramp_epochs=self.settings.ramp_epochs,
            # After a ramp that lasts until the end, the weight stays.
            total_epochs=self.setup.epochs if self.settings.decay == "cosine" else self.settings.ramp_epochs,
            unit=self.settings.unit,
        )

    def prepare(self, model: Any) -> None:
        """Most terms need nothing but the output."""

    def training_flops(self, output: Mapping[str, Any]) -> float:
        """What PyTorch's counter finds in one forward and backward pass: matrix products, and registered operators."""
        with FlopCounterMode(display=False) as counter:
            term: Any = self  # a subclass says how it is called
            loss = term(output).loss
            if loss.requires_grad:
                loss.backward()
        return counter.get_total_flops() / len(output["logits"])

    @property
    def held_bytes(self) -> int:
        """Nothing."""
        return 0
