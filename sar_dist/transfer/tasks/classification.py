"""Accuracy of a trained classifier on the validation set it was made for (``imagenet_val``)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sar_dist.config import AugmentSettings
from sar_dist.errors import UserError
from sar_dist.transfer import (
    TOP,
    ClassificationScores,
    Outcome,
    PreparedSplit,
    SampleSet,
    TransferSettings,
    TransferTask,
    limited,
    logits_of,
    open_labelled_samples,
)

CLASSIFICATION_LAYOUT = "shards (tools/make_shards.py), folders train/CLASS/*.jpg and val/CLASS/*.jpg, or a data set that torchvision stored"


class ImageNetValidation(TransferTask[TransferSettings, PreparedSplit]):
    """Top-1 and top-5 of the model's own classifier on a validation split."""

    name = "imagenet_val"
    summary = "top-1 and top-5 of the model's own classifier on the validation split of its training set"
    data_help = f"the validation split as {CLASSIFICATION_LAYOUT}"
    data_folder = "imagenet-1k-wds"

    def prepare(self) -> PreparedSplit:
        samples = limited(open_labelled_samples(self.job.data, "val", self.data_help), self.job.settings.limit)
        check_classifier(self.job.backbone.num_classes, self.job.backbone.spec, samples)
        return PreparedSplit("val", samples)

    def run(self, prepared: PreparedSplit) -> Outcome:
        job = self.job
        found = job.extract(prepared.samples, logits_of, name="val logits")
        classes = job.backbone.num_classes
        order = top_classes(found.values["logits"], min(TOP, classes))
        scores = ClassificationScores.of(order, found, classes)
        return Outcome(
            metrics=scores.metrics,
            primary="top1",
            samples=scores.samples,
            skipped=scores.skipped,
            protocol={"transform": describe_eval_transform(job.backbone.image_size, job.backbone.augment)},
            baselines={"chance": scores.chance},
        )


def top_classes(scores: NDArray[np.floating], count: int) -> NDArray[np.int64]:
    """(n, count) classes with the highest ``scores`` (n, classes), best first; of equal ones the lower class first."""
    return np.argsort(-scores, axis=1, kind="stable")[:, :count]


def check_classifier(num_classes: int, spec: str, samples: SampleSet) -> None:
    """Raise UserError unless the model has a classifier for as many classes as the set has."""
    if not num_classes:
        raise UserError(f"{spec} has no classifier; use a task that trains one, such as linear or knn")
    if samples.classes is not None and len(samples.classes) != num_classes:
        raise UserError(
            f"{spec} tells {num_classes} classes apart and the data set has {len(samples.classes)}; use a task that "
            "trains a classifier on it, such as linear or knn, or give the set that the model was trained on"
        )


def describe_eval_transform(image_size: int, augment: AugmentSettings) -> str:
    """The validation transform in words, for the protocol."""
    sides = {"center": "short side", "squash": "both sides", "border": "long side"}[augment.crop_mode]
    padding = "pad with the mean, " if augment.crop_mode == "border" else ""
    side = int(image_size / augment.crop_fraction)
    return f"resize {sides} to {side} {augment.interpolation}, {padding}centre crop {image_size}"
