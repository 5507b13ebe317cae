"""ImageNet-C (Hendrycks and Dietterich 2019): accuracy under 15 corruptions at 5 severities, and the mean corruption error."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch.nn.functional as F
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from sar_dist.config import ImageSize, height_and_width, size_text
from sar_dist.data.images import decode_image
from sar_dist.errors import UserError
from sar_dist.transfer import MAX_PIXELS, Outcome, described, digest_of_files, limited
from sar_dist.transfer.tasks import describe_eval_transform
from sar_dist.transfer.tasks.robustness.samples import IMAGENET_CLASSES, FolderSamples, LabelledFile, list_class_folders
from sar_dist.transfer.tasks.robustness.scores import (
    CORRUPTIONS,
    SEVERITIES,
    corruption_errors,
    mean_corruption_error,
    top_accuracies,
)
from sar_dist.transfer.tasks.robustness.tasks import RobustnessTask, check_imagenet_classifier, predict

IMAGES = 50000
STORED_SIZE = (224, 224)
_ARCHIVES = ("noise", "blur", "weather", "digital")


@dataclass(frozen=True)
class CentreCrop:
    """Image file to uint8 (3, H, W) of ``size``: the middle, untouched, as the images are stored at 224 pixels.

    Only an image too small for that is enlarged first, bicubic, so that models of larger inputs can be measured.
    """

    size: ImageSize

    def __call__(self, data: bytes) -> Tensor:
        image = decode_image(data, MAX_PIXELS)  # 3 H W
        height, width = image.shape[1:]
        rows, columns = height_and_width(self.size)
        if height < rows or width < columns:
            scale = max(rows / height, columns / width)
            height, width = max(rows, round(height * scale)), max(columns, round(width * scale))
            image = F.interpolate(image[None], (height, width), mode="bicubic", antialias=True)[0]
        top, left = (height - rows) // 2, (width - columns) // 2
        return image[:, top : top + rows, left : left + columns].contiguous()


@dataclass(frozen=True)
class CorruptedImages:
    """The corruptions that are there.

    Attributes:
        folders: by corruption.
        files: the images, the same ones at each severity of each corruption.
        fingerprints: of files, corruptions and limit, as "val".
        problem: what is missing of the whole set, None: nothing.
        cropped: images are as large as ImageNet-C's or as the model's input, and only cropped; others go through the model's own
            validation transform.
    """

    folders: Mapping[str, Path]
    files: Sequence[LabelledFile]
    fingerprints: Mapping[str, str]
    problem: str | None
    cropped: bool


class ImageNetC(RobustnessTask[CorruptedImages]):
    """Top-1 error of every corruption and severity; mCE relative to AlexNet."""

    name = "imagenet_c"
    summary, data_help = described("imagenet_c")
    data_folder = "imagenet-c"

    def prepare(self) -> CorruptedImages:
        check_imagenet_classifier(self.job.backbone)
        folders = find_corruptions(self.job.data)
        if not folders:
            raise UserError(f"no corruptions in {self.job.data}; expected {self.data_help}")
        files = self._common_files(folders)
        missing = [name for name in CORRUPTIONS if name not in folders]
        images, classes = len(files), len({file.label for file in files})
        problems = [f"the corruptions {', '.join(missing)} are missing"] if missing else []
        if (images, classes) != (IMAGES, IMAGENET_CLASSES):
            problems.append(
                f"{images} images of {classes} classes at each severity instead of {IMAGES} of {IMAGENET_CLASSES}"
            )
        wanted = height_and_width(self.job.backbone.image_size)
        sizes = _sizes_of_some(folders, files)
        others = sorted(sizes - {STORED_SIZE, wanted})
        if others:
            problems.append(
                f"images of {_pixels(others[0])} instead of {_pixels(STORED_SIZE)}, which the model's own validation transform resizes"
            )
        elif STORED_SIZE in sizes and wanted[0] * wanted[1] < STORED_SIZE[0] * STORED_SIZE[1]:
            self.job.say(
                f"the model sees the middle {_pixels(wanted)} of images that are stored with {_pixels(STORED_SIZE)}"
            )
        problem = self.check_whole("; ".join(problems) or None)
        content = json.dumps([files, sorted(folders), self.job.settings.limit])
        levels = [folders[name] / str(severity) for name in sorted(folders) for severity in SEVERITIES]
        fingerprint = digest_of_files(content, (os.path.join(level, file.path) for level in levels for file in files))
        return CorruptedImages(folders, files, {"val": fingerprint}, problem, not others)

    def run(self, prepared: CorruptedImages) -> Outcome:
        errors: dict[str, list[float]] = {}
        skipped = scored = 0
        for name, folder in prepared.folders.items():
            for severity in SEVERITIES:
                samples = limited(FolderSamples(folder / str(severity), prepared.files), self.job.settings.limit)
                size = self.job.backbone.image_size
                transform = CentreCrop(size) if prepared.cropped else None  # None: the model's own
                kind = f"crop {size_text(size)}" if prepared.cropped else "resized"
                found = predict(self.job, samples, None, f"{name} {severity} {kind}", transform)
                top1 = top_accuracies(found.values["classes"], found.labels, found.bad)["top1"]
                errors.setdefault(name, []).append(1 - top1 / 100)
                scored, skipped = scored + len(samples), skipped + int(found.bad.sum())
            self.job.say(f"{name}: mean top-1 error {100 * np.mean(errors[name]):.1f} %")
        mce = "mce" if len(errors) == len(CORRUPTIONS) else "mce_partial"
        chance = dict.fromkeys(errors, [1 - 1 / IMAGENET_CLASSES] * len(SEVERITIES))
        return Outcome(
            metrics={mce: mean_corruption_error(errors), "mean_error": mean_error(errors)},
            primary=mce,
            samples=scored,
            skipped=skipped,
            protocol={
                "transform": f"centre crop {size_text(self.job.backbone.image_size)}, no resizing of images that are as large"
                if prepared.cropped
                else describe_eval_transform(self.job.backbone.image_size, self.job.backbone.augment),
                "mce": "mean over corruptions of the summed error over severities over AlexNet's",
                "incomplete": prepared.problem,
            },
            baselines={
                "chance": {mce: mean_corruption_error(chance), "mean_error": mean_error(chance)},
            },
            figures={"corruption_errors": lambda: error_figure(errors)},
            tables={
                "top1_error": {name: [100 * value for value in values] for name, values in errors.items()},
                "corruption_error": corruption_errors(errors),
            },
        )

    def _common_files(self, folders: Mapping[str, Path]) -> list[LabelledFile]:
        """The images of each folder, which are the same in all of them, as they were made from the same ones."""
        common: list[LabelledFile] = []
        first = None
        for corruption in folders.values():
            for severity in SEVERITIES:
                folder = corruption / str(severity)
                if not folder.is_dir():
                    raise UserError(f"{folder} is missing; expected {self.data_help}")
                files = list_class_folders(folder)
                if first is not None and files != common:
                    lonely = sorted({*files} ^ {*common})
                    raise UserError(
                        f"{len(lonely)} images are in only one of {first} and {folder}, such as {lonely[0].path}; "
                        "unpack the archives again"
                    )
                common, first = files, first or folder
        return common


def find_corruptions(root: Path) -> dict[str, Path]:
    """Folder of each of the 15 corruptions that is in ``root``, or in ``noise``, ``blur``, ``weather``, ``digital`` there.

    Raises:
        UserError: one of them is there twice.
    """
    found: dict[str, Path] = {}
    for name in CORRUPTIONS:
        folders = [
            place / name for place in (root, *(root / archive for archive in _ARCHIVES)) if (place / name).is_dir()
        ]
        if len(folders) > 1:
            raise UserError(f"{folders[0]} and {folders[1]} are the same corruption; move one of them away")
        if folders:
            found[name] = folders[0]
    return found


def _sizes_of_some(folders: Mapping[str, Path], files: Sequence[LabelledFile]) -> set[tuple[int, int]]:
    """Sizes (height, width) of an image of each severity of each corruption; those that cannot be read are counted later."""
    sizes = set()
    levels = [folder / str(severity) for folder in folders.values() for severity in SEVERITIES]
    for number, level in enumerate(levels):
        try:
            with Image.open(level / files[number * (len(files) - 1) // len(levels)].path) as image:
                sizes.add((image.height, image.width))
        except Exception:  # noqa: BLE001 - Pillow's plugins raise nearly every type there is on damaged files
            continue
    return sizes


def _pixels(size: tuple[int, int]) -> str:
    return f"{size[1]}x{size[0]} pixels"


def mean_error(errors: Mapping[str, Sequence[float]]) -> float:
    """Unnormalised mean over corruptions and severities, percent."""
    return 100 * float(np.mean([np.mean(values) for values in errors.values()]))


def error_figure(errors: Mapping[str, Sequence[float]]) -> Figure:
    """Top-1 error in percent of each corruption (line) at each severity (column)."""
    percent = 100 * np.array(list(errors.values()))
    figure = Figure(figsize=(7, 1.5 + 0.36 * len(errors)), dpi=100, facecolor="white", layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(percent, cmap="viridis", vmin=0, vmax=100, aspect="auto")
    axes.set_xticks(range(len(SEVERITIES)), [str(severity) for severity in SEVERITIES])
    axes.set_yticks(range(len(errors)), [name.replace("_", " ") for name in errors])
    axes.set(xlabel="severity", title="top-1 error (%)")
    for (line, column), value in np.ndenumerate(percent):
        axes.text(column, line, f"{value:.1f}", ha="center", va="center", color="black" if value > 60 else "white")
    figure.colorbar(image, ax=axes)
    return figure
