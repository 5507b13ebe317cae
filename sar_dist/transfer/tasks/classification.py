"""Accuracy of a trained classifier on the validation set it was made for (``imagenet_val``)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from sar_dist.config import AugmentSettings, ImageSize, as_image_size, height_and_width, size_text
from sar_dist.data.layout import named_classes
from sar_dist.errors import UserError
from sar_dist.transfer import (
    TOP,
    Backbone,
    ClassificationScores,
    MatchedSamples,
    Outcome,
    PreparedSplit,
    SampleSet,
    TransferSettings,
    TransferTask,
    described,
    limited,
    logits_of,
    match_classes,
)


@dataclass(frozen=True)
class ClassifierSplit(PreparedSplit):
    """Samples with labels in the model's numbering; ``labels`` says how they were compared."""

    labels: str


class ImageNetValidation(TransferTask[TransferSettings, ClassifierSplit]):
    """Top-1 and top-5 of the model's own classifier on a validation split."""

    primary: ClassVar[str] = "top1"
    name = "imagenet_val"
    summary, data_help = described("imagenet_val")
    data_folder = "imagenet-1k-wds"

    def prepare(self) -> ClassifierSplit:
        samples = limited(self.job.open_labelled("val", self.data_help), self.job.settings.limit)
        matched = match_classifier(self.job.backbone, samples)
        self.job.say(f"labels {matched.remark}")
        return ClassifierSplit("val", matched.samples, matched.remark)

    def run(self, prepared: ClassifierSplit) -> Outcome:
        job = self.job
        found = job.extract(prepared.samples, logits_of, name="val logits")
        classes = job.backbone.num_classes
        check_known(found.labels, classes, job.backbone.spec)
        order = top_classes(found.values["logits"], min(TOP, classes))
        scores = ClassificationScores.of(order, found, classes)
        return Outcome(
            metrics=scores.metrics,
            primary=self.primary,
            samples=scores.samples,
            skipped=scores.skipped,
            protocol={
                "transform": describe_eval_transform(job.backbone.image_size, job.backbone.augment),
                "labels": prepared.labels,
            },
            baselines={"chance": scores.chance},
        )


def top_classes(scores: NDArray[np.floating], count: int) -> NDArray[np.int64]:
    """(n, count) classes with the highest ``scores`` (n, classes), best first; of equal ones the lower class first."""
    return np.argsort(-scores, axis=1, kind="stable")[:, :count]


def match_classifier(backbone: Backbone, samples: SampleSet) -> MatchedSamples:
    """``samples`` with labels in the numbering of the model's classifier. Raises UserError: they are of other classes."""
    classes, spec = backbone.num_classes, backbone.spec
    if not classes:
        raise UserError(f"{spec} has no classifier; use a task that trains one, such as linear or knn")
    matched = match_classes(samples, backbone.classes, spec)
    if samples.classes is None or matched.compared:
        return matched
    # A subset that says its place in a larger set by ``index`` leaves places without names.
    subset = len(named_classes(samples.classes)) < len(samples.classes) <= classes
    if len(samples.classes) != classes and not subset:
        raise UserError(
            f"{spec} tells {classes} classes apart and the data set has {len(samples.classes)}; use a task that "
            "trains a classifier on it, such as linear or knn, or give the set that the model was trained on; a "
            "classes.json with index and name of each class says which of the model's classes a subset has"
        )
    return matched


def check_known(labels: NDArray[np.int64], classes: int, spec: str) -> None:
    """Raise UserError if a label is no class of the model: it would count as wrong without a word."""
    if labels.size and labels.max() >= classes:
        raise UserError(
            f"a sample has the label {labels.max()}, but {spec} tells {classes} classes apart (0..{classes - 1})"
        )


def describe_eval_transform(size: ImageSize, augment: AugmentSettings) -> str:
    """The validation transform in words, for the protocol."""
    center = "short side" if isinstance(size, int) else "to cover"
    sides = {"center": center, "squash": "both sides", "border": "long side"}[augment.crop_mode]
    padding = "pad with the mean, " if augment.crop_mode == "border" else ""
    resized = as_image_size(*(int(side / augment.crop_fraction) for side in height_and_width(size)))
    return f"resize {sides} to {size_text(resized)} {augment.interpolation}, {padding}centre crop {size_text(size)}"
