"""The pictures of a run: attention on a few fixed validation images, training samples, and what is confused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from einops import rearrange
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from sar_dist import distributed
from sar_dist.config import RunConfig
from sar_dist.data import ValidationLoader
from sar_dist.observe import (
    RunLogger,
    attention_detail_figure,
    attention_figure,
    confusion_figure,
    packed_maps,
    samples_figure,
)
from sar_dist.regularizer import class_similarity, component_labels, spatial_entropy
from sar_dist.training.hard_classes import HardClass
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

    @cached_property
    def _fixed_samples(self) -> list[int]:
        total = self.loader.total
        count = min(self.config.log.figure_images, total)
        return [number * total // count for number in range(count)]

    @torch.no_grad()
    def draw(self, model: torch.nn.Module, batch: Mapping[str, Any] | None, step: int) -> None:
        """Draw attention, and the samples of a training micro-batch. Call on every process, as ZeRO-3 needs."""
        if not self._fixed_samples:
            return
        if self._fixed_batch is None:
            self._fixed_batch = self.loader.samples(self._fixed_samples)
        was_training = model.training
        model.eval()
        with torch.compiler.set_stance("force_eager"):  # a graph for this batch size alone would take minutes
            output = self.task.predict(model, self._fixed_batch)
        model.train(was_training)
        if not distributed.is_main():
            return
        self._draw_attention(output, self._fixed_batch, step)
        if batch is not None:
            self.logger.figure("training_samples", lambda: self._samples(batch), step)

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
            self.logger.figure("confusion", partial(confusion_figure, gathered.confusion, self._class_names()), step)
            self._keep_hardest_classes(gathered.hardest, step)
        self.logger.histograms(step, gathered.distributions, prefix="attention")

    def _keep_hardest_classes(self, hardest: Sequence[HardClass], step: int) -> None:
        """What the report shows of the classes with the least accuracy, and the images of their examples."""
        names = self._class_names()
        rows = [
            {
                "name": names[each.number],
                "images": each.images,
                "right": each.right,
                "taken_for": [[names[number], count] for number, count in each.taken_for],
                "examples": [[wrong.sample, names[wrong.predicted]] for wrong in each.examples],
            }
            for each in hardest
        ]
        unseen = self.logger.unseen(wrong.sample for each in hardest for wrong in each.examples)
        images = _images(self.loader.samples(unseen)) if unseen else {}
        self.logger.details("classes", step, {"classes": len(names), "hardest": rows}, images)
        self.logger.forget_samples(
            {*self._fixed_samples, *(wrong.sample for each in hardest for wrong in each.examples)}
        )

    def _draw_attention(self, output: Mapping[str, Any], batch: Mapping[str, Any], step: int) -> None:
        """An overview of all images, of each image every head's map, mask, components and overlay; and the maps kept."""
        similarity = class_similarity(output["queries"][-1], output["keys"][-1], self.task.grid)  # n H gh gw
        entropies = spatial_entropy(similarity, self.config.regularizer.backend)
        labels = component_labels(similarity)
        names = self._class_names()
        true, predicted = (
            [names[number] for number in numbers.tolist()]
            for numbers in (batch["label"], output["logits"].argmax(dim=1))
        )
        captions = [f"{name}\npredicted {guess}" for name, guess in zip(true, predicted, strict=True)]
        pixels = batch["image"].float() / 255
        overview = partial(attention_figure, pixels, similarity, entropies, labels, captions)
        self.logger.figure("attention", overview, step)
        for number, (image, name) in enumerate(zip(pixels, true, strict=True)):
            heads = partial(attention_detail_figure, image, similarity[number], entropies[number], labels[number], name)
            self.logger.figure(f"attention_heads/image_{number}", heads, step)
        record = {
            "samples": batch["sample"].tolist(),
            "labels": true,
            "predicted": predicted,
            "grid": list(self.task.grid),
            "entropies": [[round(value, 4) for value in heads] for heads in entropies.nan_to_num().tolist()],
            "components": [[len(head[head > 0].unique()) for head in image] for image in labels],
            "maps": packed_maps(similarity, labels),
        }
        self.logger.details("attention", step, record, _images(batch))

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


def _images(batch: Mapping[str, Any]) -> dict[int, NDArray[np.uint8]]:
    """Number of each sample of a validation batch -> its image (S, S, 3)."""
    pixels = rearrange(batch["image"], "n c y x -> n y x c").cpu().numpy()
    return dict(zip(batch["sample"].tolist(), pixels, strict=True))
