"""The pictures of a run: attention on a few fixed validation images, training samples, and what is confused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from sar_dist import distributed
from sar_dist.config import RunConfig
from sar_dist.data import ValidationLoader
from sar_dist.observe import RunLogger, attention_detail_figure, attention_figure, confusion_figure, samples_figure
from sar_dist.regularizer import class_similarity, component_labels, spatial_entropy
from sar_dist.training.task import ClassificationTask
from sar_dist.training.validation_details import ValidationDetails

_SAMPLES = 16  # two lines; even, because mixup and cutmix mix neighbours
_MAX_NAMED_TARGETS = 2  # as many classes as a mixed image can have


class Pictures:
    """Draws on the main process, and logs. ``log.figure_images=0`` turns all of it off.

    The images whose attention is drawn are spread evenly over the validation set, so that they show different classes
    also where shards are sorted, and are the same at every step and for every number of processes.
    """

    def __init__(
        self, config: RunConfig, task: ClassificationTask, loader: ValidationLoader, logger: RunLogger
    ) -> None:
        self.config = config
        self.task = task
        self.loader = loader
        self.logger = logger
        self._fixed_batch: dict[str, Any] | None = None

    @torch.no_grad()
    def draw(self, model: torch.nn.Module, batch: Mapping[str, Any] | None, step: int) -> None:
        """Draw attention, and the samples of a training micro-batch. Call on every process, as ZeRO-3 needs."""
        count = min(self.config.log.figure_images, self.loader.total)
        if not count:
            return
        if self._fixed_batch is None:
            self._fixed_batch = self.loader.samples([number * self.loader.total // count for number in range(count)])
        was_training = model.training
        model.eval()
        with torch.compiler.set_stance("force_eager"):  # a graph for this batch size alone would take minutes
            output = self.task.predict(model, self._fixed_batch)
        model.train(was_training)
        if not distributed.is_main():
            return
        for name, figure in self._attention(output, self._fixed_batch).items():
            self.logger.figure(name, figure, step)
        if batch is not None:
            self.logger.figure("training_samples", self._samples(batch), step)

    def new_details(self) -> ValidationDetails | None:
        """Where a validation puts what is to be drawn of it; None if nothing is."""
        if not self.config.log.figure_images:
            return None
        return ValidationDetails(self.config.model.num_classes, self.task.device)

    def draw_validation(self, details: ValidationDetails | None, step: int) -> None:
        """Draw a validation's confusion matrix and the distribution of the entropy. Call on every process."""
        if details is None:
            return
        gathered = details.gather()
        if not distributed.is_main():
            return
        if gathered.confusion is not None:
            self.logger.figure("confusion", confusion_figure(gathered.confusion, self._class_names()), step)
        self.logger.histograms(step, gathered.distributions, prefix="attention")

    def _attention(self, output: Mapping[str, Any], batch: Mapping[str, Any]) -> dict[str, Figure]:
        """An overview of all images, and of each image every head's map, mask, components and overlay."""
        similarity = class_similarity(output["queries"][-1], output["keys"][-1], self.task.grid)  # n H gh gw
        entropies = spatial_entropy(similarity, self.config.regularizer.backend)
        labels = component_labels(similarity)
        names = self._class_names()
        captions = [
            f"{names[label]}\npredicted {names[guess]}"
            for label, guess in zip(batch["label"].tolist(), output["logits"].argmax(dim=1).tolist(), strict=True)
        ]
        pixels = batch["image"].float() / 255
        return {"attention": attention_figure(pixels, similarity, entropies, labels, captions)} | {
            f"attention_heads/image_{number}": attention_detail_figure(
                pixels[number], similarity[number], entropies[number], labels[number], captions[number].splitlines()[0]
            )
            for number in range(len(pixels))
        }

    def _samples(self, batch: Mapping[str, Any]) -> Figure:
        """The first images of a batch as the model saw them. Augmentation is a function of the sample: it is repeated."""
        images, targets = (values[:_SAMPLES] for values in self.task.augmented(batch))
        augment = self.config.augment
        mean, std = (
            torch.tensor(values, device=images.device)[:, None, None] for values in (augment.mean, augment.std)
        )
        legend = "a training batch as the model sees it: cropped, augmented, erased, mixed.   Titles: targets"
        return samples_figure(images * std + mean, [self._target_caption(target) for target in targets.cpu()], legend)

    def _target_caption(self, target: Tensor) -> str:
        """The classes of a target (C,), without the others' share of the label smoothing."""
        names = self._class_names()
        values, classes = target.topk(min(_MAX_NAMED_TARGETS, len(target)))
        floor = target.min() + 1e-6
        return ", ".join(
            f"{names[number]} {value:.0%}"
            for value, number in zip(values.tolist(), classes.tolist(), strict=True)
            if value > floor
        )

    def _class_names(self) -> list[str]:
        """The data's names, and numbers for what it does not name: the model may have more classes than the data."""
        names = list(self.loader.class_names or ())
        return names + [f"class {number}" for number in range(len(names), self.config.model.num_classes)]
