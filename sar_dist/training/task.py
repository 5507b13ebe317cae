"""Supervised classification with further terms of the loss: a batch in, a dictionary of losses out.

The trainer knows no loss: it backpropagates ``losses["loss"]`` and logs the rest.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from sar_dist.config import OptimSettings, RunConfig
from sar_dist.data.images import DeviceTransform
from sar_dist.engine import autocast, input_dtype
from sar_dist.models import TappedVisionTransformer
from sar_dist.observe import known_quantities
from sar_dist.regions import region
from sar_dist.regularizer import find_backend_problem
from sar_dist.terms import build_terms


class ClassificationTask:
    """The classification's loss plus the weighted terms, of which the spatial entropy of the tapped blocks is the first.

    All are computed in float32 outside the engine, where autocast is off. A term that is trained is part of every step on
    every process, also while its weight is still zero: under ZeRO-3 a term that is there on some processes or steps only
    would hang the others.

    Args:
        config: the run's configuration.
        grid: rows and columns of the model's patch grid.
        device: where batches are moved.
    """

    def __init__(self, config: RunConfig, grid: tuple[int, int], device: torch.device) -> None:
        self.terms = build_terms(config, grid, device)
        self.quantities = known_quantities(quantity for term in self.terms for quantity in term.quantities)
        self.grid = grid
        self.device = device
        self.config = config
        self.dtype = input_dtype(config)
        self.transform = DeviceTransform(
            config.augment, config.model.num_classes, config.run.seed, compiled=_can_compile(device)
        )

    def prepare(self, model: TappedVisionTransformer) -> None:
        """Let every term ask of the model what it needs, before the first batch."""
        for term in self.terms:
            term.prepare(model)

    def losses(self, model: Any, batch: Mapping[str, Any], epoch: float) -> dict[str, Tensor]:
        """Losses of one training micro-batch of the loader, after ``epoch`` (fractional) epochs.

        Returns:
            ``loss``, what is backpropagated; ``loss_cls``, the classification's; for each term that is trained its
            ``loss_NAME``, and the mean of what else it measures, such as ``components``.
        """
        images, targets = self.augmented(batch)
        sample_keys = tuple(batch[name].to(self.device, non_blocking=True) for name in ("epoch", "sample"))
        with region("forward"):
            images = images.to(self.dtype)
            output = {**model(images, sample_keys), "images": images}
            loss_cls = classification_loss(output["logits"].float(), targets, self.config.optim)
        loss, logged = loss_cls, {"loss_cls": loss_cls}
        for term in self.terms:
            if term.is_trained:
                with region(term.region):
                    scores = term(output)
                loss = loss + term.weight(epoch) * scores.loss
                others = {name: values for name, values in scores.per_sample.items() if name != term.name}
                logged |= {f"loss_{term.name}": scores.loss}
                logged |= {name: values.float().mean() for name, values in others.items()}
        return {"loss": loss, **logged}

    def weights(self, epoch: float) -> dict[str, float]:
        """The weight of every term after ``epoch`` (fractional) epochs, by its name in the log."""
        return {f"{term.name}_weight": term.weight(epoch) for term in self.terms}

    def augmented(self, batch: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        """A training micro-batch as the model sees it: float32 images (b, 3, S, S), targets (b, C)."""
        with region("host_to_device"):
            tensors = [
                batch[name].to(self.device, non_blocking=True)
                for name in ("image", "label", "epoch", "sample", "position")
            ]
            drawn = None
            if "plan" in batch:
                drawn = batch["plan"], batch["operations"].to(self.device, non_blocking=True)
        with region("augmentation"):
            images, labels, epoch, sample, position = tensors
            return self.transform.train(images, labels, epoch, sample, position, drawn)

    def per_sample(self, output: Mapping[str, Any]) -> dict[str, Tensor]:
        """What every term measures in each image, also with weight 0, by name: (B,) or (B, blocks, heads)."""
        return {name: values for term in self.terms for name, values in term(output).per_sample.items()}

    def predict(self, model: Any, batch: Mapping[str, Any]) -> dict[str, Any]:
        """The model's output on a validation micro-batch, in the precision of training, and its transformed ``images``."""
        images = self.transform.evaluate(batch["image"].to(self.device, non_blocking=True)).to(self.dtype)
        with autocast(self.config, self.device):
            return {**model(images), "images": images}


def _can_compile(device: torch.device) -> bool:
    """Whether compiled functions are faster on the device, and what compiles them has been seen to work there."""
    return device.type == "cuda" and find_backend_problem("auto", device) is None


def classification_loss(logits: Tensor, targets: Tensor, optim: OptimSettings) -> Tensor:
    """The mean loss of a micro-batch, as ``optim.loss`` says.

    Binary cross-entropy is that of "ResNet strikes back" (https://arxiv.org/abs/2110.00476, section 2.2) and DeiT III
    (https://arxiv.org/abs/2204.07118, section 3): every class is a question by itself, averaged over the classes.

    Args:
        logits: (B, C) float32.
        targets: (B, C), smoothed and mixed.
        optim: ``loss`` and ``target_threshold``.
    """
    if optim.loss == "cross_entropy":
        return functional.cross_entropy(logits, targets)
    if optim.target_threshold is not None:
        targets = (targets > optim.target_threshold).to(targets.dtype)
    return functional.binary_cross_entropy_with_logits(logits, targets)
