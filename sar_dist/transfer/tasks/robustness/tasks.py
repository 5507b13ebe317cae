"""Accuracy of an ImageNet-1k classifier on other test images: ImageNet-A, -R, V2, Sketch, and with the ReaL labels.

ImageNet-C is in ``robustness.corruptions``. See docs/evaluation_robustness.md.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, TypeVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from sar_dist.errors import UserError
from sar_dist.transfer import (
    WORDNET_ID,
    Backbone,
    Compute,
    Features,
    Outcome,
    Prepared,
    PreparedSplit,
    SampleSet,
    TransferJob,
    TransferSettings,
    TransferTask,
    Transform,
    described,
    limited,
    places_of_words,
)
from sar_dist.transfer.tasks import describe_eval_transform
from sar_dist.transfer.tasks.robustness.samples import (
    IMAGENET_CLASSES,
    class_index,
    class_indices,
    open_class_folders,
    open_validation_images,
    real_labels,
)
from sar_dist.transfer.tasks.robustness.scores import IntArray, real_top1, top_accuracies

PREDICTIONS = 5


class RobustnessSettings(TransferSettings):
    """Settings of the robustness tasks."""

    allow_incomplete: bool = Field(
        False, description="score what there is although images, classes or corruptions of the set are missing"
    )


P = TypeVar("P", bound=Prepared)


@dataclass(frozen=True)
class RobustnessImages(PreparedSplit):
    """The images of a set; ``problem`` says what is missing of the whole one, None: nothing."""

    problem: str | None


class RobustnessTask(TransferTask[RobustnessSettings, P]):
    """What the robustness tasks share: a classifier of 1000 classes, and whether the set is whole."""

    settings_type = RobustnessSettings

    @classmethod
    def variant(cls, settings: RobustnessSettings) -> str:
        return "incomplete" if settings.allow_incomplete else ""

    def check_whole(self, problem: str | None) -> str | None:
        """Refuse a set with a ``problem`` unless the user allows it; its score is comparable with no other. Returns it."""
        if problem is None:
            return None
        if not self.job.settings.allow_incomplete:
            raise UserError(
                f"{self.job.data}: {problem}; expected {self.data_help}; or score what there is with "
                "allow_incomplete=true"
            )
        self.job.say(f"{problem}: not comparable with published numbers")
        return problem


class ClassFolderTask(RobustnessTask[RobustnessImages]):
    """A set of class folders.

    Class attributes:
        folder_names: what the folder with the class folders may be called below ``--data``.
        images: number of images of the whole set.
        class_list: name of timm's list of the set's classes; None: all 1000.
    """

    primary: ClassVar[str] = "top1"
    folder_names: ClassVar[tuple[str, ...]]
    images: ClassVar[int]
    class_list: ClassVar[str | None] = None

    def prepare(self) -> RobustnessImages:
        check_imagenet_classifier(self.job.backbone)
        settings = self.job.settings
        found = open_class_folders(
            self.job.data, self.folder_names, self.data_help, settings.label, self.job.backbone.classes
        )
        every = (
            set(range(IMAGENET_CLASSES)) if self.class_list is None else set(class_indices(self.class_list).tolist())
        )
        if foreign := found.labels - every:
            remedy = (
                "if its labels count its own classes, put a classes.json with the WordNet id of each, in their order, beside "
                "the shards"
                if found.by_number
                else f"expected {self.data_help}"
            )
            raise UserError(
                f"{self.job.data} has {len(foreign)} classes that {self.name} does not have, such as class "
                f"{min(foreign)} of ImageNet-1k; {remedy}"
            )
        classes = len(found.labels)
        whole = (len(found.samples), classes) == (self.images, len(every))
        counts = f"{len(found.samples)} images of {classes} classes instead of {self.images} of {len(every)}"
        problem = self.check_whole(None if whole else counts)
        return RobustnessImages("val", limited(found.samples, settings.limit), problem)

    def run(self, prepared: RobustnessImages) -> Outcome:
        indices = None if self.class_list is None else class_indices(self.class_list)
        found = predict(self.job, prepared.samples, indices, f"{self.name} top {PREDICTIONS}")
        classes = IMAGENET_CLASSES if indices is None else len(indices)
        return Outcome(
            metrics=top_accuracies(found.values["classes"], found.labels, found.bad),
            primary=self.primary,
            samples=len(prepared.samples),
            skipped=int(found.bad.sum()),
            protocol={
                "transform": describe_eval_transform(self.job.backbone.image_size, self.job.backbone.augment),
                "classes": f"argmax over {classes} of the 1000 logits",
                "incomplete": prepared.problem,
            },
            baselines={"chance": {"top1": 100 / classes, "top5": 100 * PREDICTIONS / classes}},
        )


class ImageNetA(ClassFolderTask):
    """ImageNet-A (Hendrycks et al. 2021): natural images that fooled a ResNet-50, 200 classes."""

    name = "imagenet_a"
    summary, data_help = described("imagenet_a")
    data_folder = "imagenet-a"
    folder_names = ("imagenet-a",)
    images = 7500
    class_list = "imagenet_a"


class ImageNetR(ClassFolderTask):
    """ImageNet-R (Hendrycks et al. 2021): art, cartoons, toys and other renditions, 200 classes."""

    name = "imagenet_r"
    summary, data_help = described("imagenet_r")
    data_folder = "imagenet-r"
    folder_names = ("imagenet-r",)
    images = 30000
    class_list = "imagenet_r"


class ImageNetV2(ClassFolderTask):
    """ImageNetV2 (Recht et al. 2019), matched frequency: a new test set. Its folders are class indices, not names."""

    name = "imagenet_v2"
    summary, data_help = described("imagenet_v2")
    data_folder = "imagenetv2"
    folder_names = ("imagenetv2-matched-frequency-format-val",)
    images = 10000

    def prepare(self) -> RobustnessImages:
        """Two other test sets of the same authors have as many images of the same classes, and are easier."""
        data = self.job.data.resolve()
        inside = sorted(entry.name for entry in os.scandir(data) if entry.is_dir()) if data.is_dir() else []
        if any(name in self.folder_names or class_index(name) is not None for name in inside):
            inside = []  # the set itself is there, whatever lies beside it
        other = next(
            (part for part in (*data.parts, *inside) if re.search(r"imagenetv2.(threshold|top.images)", part)), None
        )
        if other is not None:
            raise UserError(
                f"{other} is not the matched-frequency set, but another of ImageNetV2; expected {self.data_help}"
            )
        return super().prepare()


class ImageNetSketch(ClassFolderTask):
    """ImageNet-Sketch (Wang et al. 2019): drawings of all 1000 classes."""

    name = "imagenet_sketch"
    summary, data_help = described("imagenet_sketch")
    data_folder = "imagenet-sketch"
    folder_names = ("sketch", "imagenet-sketch")
    images = 50889


class ImageNetReal(RobustnessTask[RobustnessImages]):
    """ImageNet's validation images with the reassessed labels of Beyer et al. 2020."""

    primary: ClassVar[str] = "top1"
    name = "imagenet_real"
    summary, data_help = described("imagenet_real")
    data_folder = "imagenet-1k-wds"

    def prepare(self) -> RobustnessImages:
        check_imagenet_classifier(self.job.backbone)
        samples = open_validation_images(self.job.data, self.data_help)
        whole = len(real_labels())
        counts = f"{len(samples)} validation images instead of {whole}"
        problem = self.check_whole(None if len(samples) == whole else counts)
        return RobustnessImages("val", limited(samples, self.job.settings.limit), problem)

    def run(self, prepared: RobustnessImages) -> Outcome:
        found = predict(self.job, prepared.samples, None, f"validation images top {PREDICTIONS}")
        numbers, counts = np.unique(found.labels, return_counts=True)
        if counts.max() > 1:
            raise UserError(f"validation image {numbers[counts.argmax()] + 1} is {counts.max()} times in the set")
        right: Sequence[frozenset[int]] = [real_labels()[number] for number in found.labels]
        top1, scored = real_top1(found.values["classes"], right, found.bad)
        if not scored:
            raise UserError(f"none of the {len(right)} images has a ReaL label; raise limit")
        sizes = [len(labels) for labels in right if labels]
        return Outcome(
            metrics={"top1": top1},
            primary=self.primary,
            samples=scored,
            skipped=int(sum(bad for bad, labels in zip(found.bad, right, strict=True) if labels)),
            protocol={
                "transform": describe_eval_transform(self.job.backbone.image_size, self.job.backbone.augment),
                "labels": "ReaL as shipped with timm, by the number in the file name",
                "images_without_label": len(right) - scored,
                "incomplete": prepared.problem,
            },
            baselines={"chance": {"top1": 100 * float(np.mean(sizes)) / IMAGENET_CLASSES}},
        )


def check_imagenet_classifier(backbone: Backbone) -> None:
    """Raise UserError unless the model tells the 1000 classes of ImageNet-1k apart."""
    if backbone.num_classes != IMAGENET_CLASSES:
        has = f"tells {backbone.num_classes} classes apart" if backbone.num_classes else "has no classifier"
        raise UserError(f"{backbone.spec} {has}; this task needs a classifier of the 1000 classes of ImageNet-1k")
    for label, name in enumerate(backbone.classes or ()):
        index = class_index(name)
        if index != label and (index is not None or WORDNET_ID.fullmatch(name)):
            raise UserError(
                f"{backbone.spec} has other classes than ImageNet-1k, or another order: its label {label} is {name}, which "
                f"is {'no class' if index is None else f'class {index}'} there; measure it on its own set with imagenet_val"
            )
    right, wrong = places_of_words(backbone.classes or ())
    if len(wrong) > right:
        raise UserError(
            f"{backbone.spec} has ImageNet-1k's classes in another order: {len(wrong)} names are not those of their labels, the "
            f"first is {(backbone.classes or ())[wrong[0]]!r} for {wrong[0]}; measure it on its own set with imagenet_val"
        )


def predict(
    job: TransferJob[RobustnessSettings],
    samples: SampleSet,
    indices: IntArray | None,
    name: str,
    transform: Transform | None = None,
) -> Features:
    """``classes`` (5,) of every sample: the best ones among ``indices`` (None: all), as ImageNet-1k indices."""
    return job.extract(samples, best_classes(indices), name=name, transform=transform)


def best_classes(indices: IntArray | None) -> Compute:
    """A function for ``extract``: ``classes`` (5,), best first, of equal ones the lower class first.

    Predictions and not logits are stored: ImageNet-C has 3.75 million images.
    """

    def compute(backbone: Backbone, images: Tensor) -> dict[str, Tensor]:
        logits = backbone.logits(images)
        if indices is None:
            return {"classes": _order(logits)}
        chosen = torch.from_numpy(indices).to(logits.device)
        return {"classes": chosen[_order(logits[:, chosen])]}

    return compute


def _order(logits: Tensor) -> Tensor:
    return logits.sort(dim=1, descending=True, stable=True).indices[:, :PREDICTIONS]
