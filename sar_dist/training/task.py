"""Supervised classification with the spatial-entropy regularizer: a batch in, a dictionary of losses out.

The trainer knows no loss: it backpropagates ``losses["loss"]`` and logs the rest.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from sar_dist.config import RunConfig
from sar_dist.data.images import DeviceTransform
from sar_dist.engine import input_dtype
from sar_dist.regions import region
from sar_dist.regularizer import regularizer_weight, spatial_entropy_from_query_key


class ClassificationTask:
    """Cross-entropy plus the weighted mean spatial entropy of the tapped blocks.

    Both are computed in float32 outside the engine, where autocast is off. With ``regularizer.weight`` above zero the
    entropy is part of every step on every process, also while its weight is still zero: under ZeRO-3 a term that is
    there on some processes or steps only would hang the others.

    Args:
        config: the run's configuration.
        grid: rows and columns of the model's patch grid.
        device: where batches are moved.
    """

    def __init__(self, config: RunConfig, grid: tuple[int, int], device: torch.device) -> None:
        self.regularizer = config.regularizer
        self.epochs = config.optim.epochs
        self.grid = grid
        self.device = device
        self.dtype = input_dtype(config)
        self.transform = DeviceTransform(config.augment, config.model.num_classes, config.run.seed)

    def losses(self, model: Any, batch: Mapping[str, Any], entropy_weight: float) -> dict[str, Tensor]:
        """Losses of one training micro-batch of the loader.

        Returns:
            ``loss``, what is backpropagated; ``loss_cls``, the cross-entropy; and, when the model is regularized,
            ``loss_entropy``, the mean entropy in nats, and ``components``, the mean number of components of a map.
        """
        images, targets = self.augmented(batch)
        sample_keys = tuple(batch[name].to(self.device, non_blocking=True) for name in ("epoch", "sample"))
        with region("forward"):
            output = model(images.to(self.dtype), sample_keys)
            loss_cls = functional.cross_entropy(output["logits"].float(), targets)
        if not self.regularizer.weight:
            return {"loss": loss_cls, "loss_cls": loss_cls}
        with region("spatial_entropy"):
            entropies, components = self.entropies(output)
            loss_entropy = entropies.mean()
        return {
            "loss": loss_cls + entropy_weight * loss_entropy,
            "loss_cls": loss_cls,
            "loss_entropy": loss_entropy,
            "components": components.float().mean(),
        }

    def augmented(self, batch: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        """A training micro-batch as the model sees it: float32 images (b, 3, S, S), targets (b, C)."""
        with region("host_to_device"):
            tensors = [
                batch[name].to(self.device, non_blocking=True)
                for name in ("image", "label", "epoch", "sample", "position")
            ]
        with region("augmentation"):
            return self.transform.train(*tensors)

    def entropy_weight(self, epoch: float) -> float:
        """Weight of the spatial entropy after ``epoch`` (fractional) epochs."""
        return regularizer_weight(
            epoch,
            weight=self.regularizer.weight,
            ramp_epochs=self.regularizer.ramp_epochs,
            total_epochs=self.epochs,
            unit=self.regularizer.unit,
        )

    def entropies(self, output: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        """Spatial entropy and number of components of every head of every tapped block, each (B, blocks, H)."""
        results = [
            spatial_entropy_from_query_key(query, key, self.grid, self.regularizer.backend, return_components=True)
            for query, key in zip(output["queries"], output["keys"], strict=True)
        ]
        entropies, components = zip(*results, strict=True)
        return torch.stack(entropies, dim=1), torch.stack(components, dim=1)

    def predict(self, model: Any, batch: Mapping[str, Any]) -> dict[str, Any]:
        """The model's output on one validation micro-batch, transformed as in evaluation."""
        images = self.transform.evaluate(batch["image"].to(self.device, non_blocking=True))
        return model(images.to(self.dtype))
