"""The tasks ``ade20k`` and ``voc_seg``: train a head on the backbone, score it on the validation split."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from matplotlib.figure import Figure
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes
from torch import Tensor

from sar_dist import distributed
from sar_dist.data.making.sources import VOC_CLASSES, Source, ade20k_sources, voc_sources
from sar_dist.data.shards import Split
from sar_dist.errors import UserError
from sar_dist.files import atomic_write
from sar_dist.transfer import (
    Backbone,
    Outcome,
    SampleSet,
    SourceSamples,
    TransferTask,
    described,
    limited,
    open_shard_samples,
    train_resumably,
)
from sar_dist.transfer.tasks.segmentation.evaluation import Predictor, count_confusions, model_windows
from sar_dist.transfer.tasks.segmentation.figures import Prediction, class_scores_figure, predictions_figure
from sar_dist.transfer.tasks.segmentation.metrics import class_accuracy, class_iou, majority_counts, scores
from sar_dist.transfer.tasks.segmentation.model import SegmentationModel, recipe_for
from sar_dist.transfer.tasks.segmentation.samples import LabelCensus, SegmentationSamples, has_voc_labels, take_census
from sar_dist.transfer.tasks.segmentation.settings import Head, SegmentationRecipe, SegmentationSettings
from sar_dist.transfer.tasks.segmentation.training import SegmentationTraining, TrainingJob
from sar_dist.transfer.tasks.segmentation.transforms import evaluation_image

CHECKPOINT_FILE = "training.safetensors"
CONFUSION_FILE = "confusion.safetensors"
DEVIATIONS = (
    "loss: mean over labelled pixels of the global batch",
    "saturation jitter blends with grey instead of scaling HSV's S",
    "windows of images narrower than the crop are padded to the crop",
)
HEAD_DEVIATIONS: Mapping[Head, str] = {
    "upernet": "the decoder normalises (LayerNorm) its four inputs",
    "dpt": "trained by UPerNet's recipe; scales are relative to the token grid",
}


@dataclass(frozen=True)
class SegmentationData:
    """What is trained and scored on, and how.

    Attributes:
        train, val: the two splits.
        recipe: how.
        fingerprints: of each split.
    """

    train: SegmentationSamples
    val: SegmentationSamples
    recipe: SegmentationRecipe
    fingerprints: Mapping[str, str]


class SegmentationTask(TransferTask[SegmentationSettings, SegmentationData]):
    """Segmentation on one data set; a subclass says how to open its files and what their labels mean."""

    primary: ClassVar[str] = "mIoU"
    settings_type = SegmentationSettings
    zero_is_void: ClassVar[bool]

    @classmethod
    def variant(cls, settings: SegmentationSettings) -> str:
        """The head, and what the user said about orientations."""
        return "_".join(part for part in (settings.head, settings.orientation) if part)

    @abstractmethod
    def open_folder(self, root: Path) -> list[Source]:
        """The splits in the data set's public layout. Raises UserError."""

    @abstractmethod
    def class_names(self, samples: SampleSet) -> tuple[str, ...]:
        """Names by training label. Raises UserError."""

    def prepare(self) -> SegmentationData:
        """Open both splits and check crop, batch and a few samples."""
        recipe = recipe_for(self.job.settings, self.job.backbone)
        _check_recipe(recipe, self.job.backbone.patch)
        train_files, val_files = self._open("train"), self._open("val")
        classes = self.class_names(train_files)
        train, val = (
            SegmentationSamples(
                files,
                classes,
                zero_is_void=self.zero_is_void,
                drawn_on=self.job.settings.orientation,
                own=self.class_names(files),
            )
            for files in (train_files, val_files)
        )
        if val.renumbered:
            self.job.say(
                "the validation maps count the classes in another order than the training maps: compared by name"
            )
        for samples in (train, val):
            samples.check_some()
        return SegmentationData(train, val, recipe, {"train": train.fingerprint, "val": val.fingerprint})

    def run(self, prepared: SegmentationData) -> Outcome:
        """Check all labels, train and score, then the same with a random backbone where that is asked for."""
        job = self.job
        census = {
            name: take_census(samples, job.out / f"labels_{name}.json", job.settings.loader_processes, job.say)
            for name, samples in (("train", prepared.train), ("val", prepared.val))
        }
        if self.zero_is_void and not any(found.pixels[-1] for found in census.values()):
            count, last = len(prepared.train.classes), prepared.train.classes[-1]
            job.say(
                f"no map has the label {count}, that of {last}, and 0 is void: if these maps count their {count} classes from 0, add 1 to "
                "every label but 255"
            )
        for name, found in census.items():
            if found.unreadable:
                job.say(f"{name}: {len(found.unreadable)} samples cannot be read: {'; '.join(found.reasons[:5])}")
            if found.without_map:
                effect = "trained on" if name == "train" else "scored"
                job.say(f"{name}: {found.without_map} maps of labels cannot be read: these images are not {effect}")
            if found.turned:
                job.say(f"{name}: {found.turned} images are turned by their EXIF orientation, as their maps lie")
        counts, predictor = self._measure(prepared, job.backbone, census["train"], job.out)
        baselines: dict[str, Mapping[str, float]] = {
            "majority class": scores(majority_counts(counts, census["train"].majority))
        }
        if prepared.recipe.random_baseline:
            job.say("the same with a newly initialised backbone")
            random_counts, _ = self._measure(
                prepared,
                job.backbone.randomly_initialised(job.settings.seed),
                census["train"],
                job.out / "random_backbone",
            )
            baselines["random backbone"] = scores(random_counts)
        return self._outcome(prepared, counts, predictor, baselines, census)

    def _open(self, split: Split) -> SampleSet:
        root = self.job.data
        if not root.is_dir():
            raise UserError(f"there is no folder {root}; expected {self.data_help}")
        found: SampleSet | None = open_shard_samples(root, split)
        if found is None:
            try:
                sources = self.open_folder(root)
            except UserError as error:
                raise UserError(f"{error}; this task takes {self.data_help}") from error
            found = SourceSamples(next(source for source in sources if source.split == split))
        if not len(found):
            raise UserError(f"the {split} split in {root} is empty; expected {self.data_help}")
        return limited(found, self.job.settings.limit)

    def _measure(
        self, data: SegmentationData, backbone: Backbone, census: LabelCensus, folder: Path
    ) -> tuple[Tensor, Predictor]:
        """Train on ``backbone`` and score; what ``folder`` holds already is not done again."""
        job, settings = self.job, self.job.settings
        model = SegmentationModel(backbone, data.recipe, len(data.train.classes), settings.seed)
        bad = set(census.unreadable)
        usable = [number for number in range(len(data.train)) if number not in bad]
        how = TrainingJob(
            seed=settings.seed,
            workers=settings.loader_processes,
            device=backbone.device,
            normalise=backbone.normalise,
            autocast=backbone.autocast,
        )
        training = SegmentationTraining(model, data.train, usable, how)
        train_resumably(training, folder / CHECKPOINT_FILE, settings.checkpoint_every, job.say)
        model.eval()
        predictor = Predictor(model_windows(model, backbone), backbone.normalise, data.recipe, settings.batch)
        file = folder / CONFUSION_FILE
        counts = distributed.main_first(lambda: _read_counts(file, len(data.val.classes)))
        if counts is None:
            counts = count_confusions(
                data.val, predictor, data.recipe, workers=settings.loader_processes, device=backbone.device, say=job.say
            )
            distributed.main_first(lambda: _write_counts(file, counts))
        return counts, predictor

    def _outcome(
        self,
        data: SegmentationData,
        counts: Tensor,
        predictor: Predictor,
        baselines: Mapping[str, Mapping[str, float]],
        census: Mapping[str, LabelCensus],
    ) -> Outcome:
        classes = data.val.classes
        iou, accuracy = class_iou(counts), class_accuracy(counts)
        pixels = counts.sum(dim=1).numpy()
        measured = scores(counts)
        title = f"mIoU {measured['mIoU']:.2f} %, pixel accuracy {measured['aAcc']:.2f} %"

        def predictions() -> Figure | None:  # on the main process alone, and nothing in it is collective
            pictures = self._pictures(data, predictor, set(census["val"].unreadable))
            return predictions_figure(pictures, classes) if pictures else None

        return Outcome(
            metrics=measured,
            primary=self.primary,
            samples=len(data.val) - census["val"].without_map,
            skipped=len(census["val"].unreadable) - census["val"].without_map,
            protocol=self._protocol(data, census),
            baselines=baselines,
            figures={
                "class_iou": lambda: class_scores_figure(classes, iou, 100 * pixels / pixels.sum(), title),
                "predictions": predictions,
            },
            tables={
                "per_class": [
                    {"class": name, "iou": _number(i), "accuracy": _number(a), "pixels": int(n)}
                    for name, i, a, n in zip(classes, iou, accuracy, pixels, strict=True)
                ]
            },
        )

    def _protocol(self, data: SegmentationData, census: Mapping[str, LabelCensus]) -> dict[str, Any]:
        return {
            **data.recipe.as_json(),
            "optimizer": "AdamW, no decay on 1-D parameters",
            "backbone": "frozen" if data.recipe.frozen else "trained",
            "evaluation": "single scale, sliding window, original resolution, 255 not counted",
            "zero_is_void": self.zero_is_void,
            "training_samples": len(data.train) - len(census["train"].unreadable),
            "turned_by_exif": {name: found.turned for name, found in census.items()},
            "unreadable": {name: found.reasons for name, found in census.items()},
            "deviations": self._deviations(data.recipe),
        }

    def _deviations(self, recipe: SegmentationRecipe) -> list[str]:
        last = self.job.backbone.depth - 1
        found = [*recipe.departures(), *DEVIATIONS]
        if recipe.head in HEAD_DEVIATIONS:
            found.append(HEAD_DEVIATIONS[recipe.head])
        if recipe.frozen and recipe.blocks != (last,):
            found.append(f"the head looks at block {recipe.blocks[0]} instead of the last, {last}")
        return found

    def _pictures(self, data: SegmentationData, predictor: Predictor, unreadable: set[int]) -> list[Prediction]:
        """Evenly spread validation images with their predictions."""
        usable = [number for number in range(len(data.val)) if number not in unreadable]
        count = min(self.job.settings.pictures, len(usable))
        places = np.linspace(0, len(usable) - 1, count).round().astype(int)
        pictures = []
        for place in places:
            key, image, label = data.val.read(usable[place])
            resized = evaluation_image(image, data.recipe.short_side, data.recipe.long_side)
            predicted = predictor(resized, (label.shape[0], label.shape[1])).cpu()
            pictures.append(Prediction(key, image, label, predicted))
        return pictures


class Ade20k(SegmentationTask):
    """ADE20K, or a set in its layout with its own ``objectInfo*.txt``."""

    name = "ade20k"
    summary, data_help = described("ade20k")
    data_folder = "ADEChallengeData2016"
    zero_is_void = True

    def open_folder(self, root: Path) -> list[Source]:
        inner = root / self.data_folder
        return [*ade20k_sources(inner if inner.is_dir() else root)]

    def class_names(self, samples: SampleSet) -> tuple[str, ...]:
        if samples.classes is None:
            raise UserError(
                f"{self.job.data} does not name its classes; put objectInfo*.txt (a table with a Name column) into the "
                f"folder, and make shards again from there; expected {self.data_help}"
            )
        if has_voc_labels(samples.classes):
            raise UserError(
                f"{self.job.data} holds the labels of VOC, of which 0 is a class and not void: evaluate it with --task voc_seg"
            )
        return samples.classes


class VocSegmentation(SegmentationTask):
    """Pascal VOC 2012: 20 classes and background."""

    name = "voc_seg"
    summary, data_help = described("voc_seg")
    data_folder = "VOCdevkit"
    zero_is_void = False

    def open_folder(self, root: Path) -> list[Source]:
        return [*voc_sources(root)]

    def class_names(self, samples: SampleSet) -> tuple[str, ...]:
        if samples.classes is not None and not has_voc_labels(samples.classes):
            raise UserError(
                f"{self.job.data} names {len(samples.classes)} classes that are not VOC's, such as {samples.classes[0]}: evaluate it with "
                "--task ade20k, where 0 is void and k the k-th class"
            )
        return tuple(VOC_CLASSES)


def _check_recipe(recipe: SegmentationRecipe, patch: int) -> None:
    """Raise UserError if crop, stride or batch do not fit patches of ``patch`` pixels, each other or the processes."""
    multiple = 2 * patch if recipe.head == "dpt" else patch
    if recipe.crop % multiple:
        below = recipe.crop // multiple * multiple
        why = "twice the patch size (the DPT head halves the grid)" if recipe.head == "dpt" else "the patch size"
        raise UserError(f"crop={recipe.crop} is not divisible by {multiple}, {why}; use {max(below, multiple)}")
    if recipe.stride > recipe.crop:
        raise UserError(f"stride={recipe.stride} leaves pixels out between windows of crop={recipe.crop}")
    world = distributed.read_environment()[2]
    if recipe.global_batch % world:
        raise UserError(f"global_batch={recipe.global_batch} is not divisible by the {world} processes")


def _read_counts(file: Path, classes: int) -> Tensor | None:
    """The confusion matrix in a file; None where there is none or it is damaged, and must be counted again."""
    try:
        counts = load_file(file)["counts"]
    except (OSError, SafetensorError, KeyError):
        return None
    whole = counts.dtype == torch.int64 and counts.shape == (classes, classes + 1) and bool((counts >= 0).all())
    return counts if whole else None


def _write_counts(file: Path, counts: Tensor) -> None:
    with atomic_write(file) as stream:
        stream.write(to_bytes({"counts": counts.contiguous()}))


def _number(value: float) -> float | None:
    return None if np.isnan(value) else round(float(value), 4)
