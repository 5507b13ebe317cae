"""Data sets as torchvision downloads and stores them: CIFAR-10/100, Flowers-102, Oxford-IIIT Pets.

torchvision checks the files' MD5 sums and knows the official splits. Nothing is downloaded here: a cluster's compute
nodes often have no internet, and an evaluation should not wait for it.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torchvision import datasets

from sar_dist.data.layout import Split, member_extension
from sar_dist.errors import UserError, in_brief
from sar_dist.files import read_regular
from sar_dist.transfer.file_states import digest_of_files


@dataclass(frozen=True)
class _Kind:
    """A data set class of torchvision, and the constructor arguments of the parts that make up a split."""

    name: str
    parts: Mapping[Split, tuple[dict[str, Any], ...]]


# By the folder that torchvision makes below its root. Flowers-102 and Pets are trained on what the literature trains on,
# training and validation images together, and scored on the test images.
_KINDS = {
    "cifar-10-batches-py": _Kind("CIFAR10", {"train": ({"train": True},), "val": ({"train": False},)}),
    "cifar-100-python": _Kind("CIFAR100", {"train": ({"train": True},), "val": ({"train": False},)}),
    "flowers-102": _Kind("Flowers102", {"train": ({"split": "train"}, {"split": "val"}), "val": ({"split": "test"},)}),
    "oxford-iiit-pet": _Kind("OxfordIIITPet", {"train": ({"split": "trainval"},), "val": ({"split": "test"},)}),
}


class TorchvisionSamples:
    """A split of a torchvision data set: files as they lie on disk, or arrays as lossless PNG files."""

    def __init__(self, parts: Sequence[Any], name: str, split: Split) -> None:
        # An array of pixels, or the path of a file, for each sample.
        self._images = [image for part in parts for image in _images_of(part)]
        self._labels = [int(label) for part in parts for label in _labels_of(part)]
        names = getattr(parts[0], "classes", None)
        self.classes = tuple(map(str, names)) if names is not None else None
        files = [Path(image) for image in self._images if not isinstance(image, np.ndarray)]
        content = json.dumps([f"{name}/{split}", self._labels, [file.name for file in files]])
        arrays = hashlib.sha256()
        for image in self._images:
            if isinstance(image, np.ndarray):
                arrays.update(image.tobytes())
        self.fingerprint = digest_of_files(content + arrays.hexdigest(), files)

    def __len__(self) -> int:
        return len(self._labels)

    def sample(self, number: int) -> tuple[str, Mapping[str, bytes]]:
        label, image = str(self._labels[number]).encode(), self._images[number]
        if isinstance(image, np.ndarray):
            png = io.BytesIO()
            Image.fromarray(image).save(png, "PNG", compress_level=0)
            return f"{number:06d}", {"png": png.getvalue(), "cls": label}
        file = Path(image)
        try:
            return file.stem, {member_extension(file.name): read_regular(file), "cls": label}
        except OSError as error:
            raise UserError(f"cannot read {file}: {error.strerror}") from error


def open_torchvision_samples(root: Path, split: Split) -> TorchvisionSamples | None:
    """The data set whose folder lies in ``root``, or is ``root``; None where there is none.

    Raises:
        UserError: the folder is there but not what torchvision stored.
    """
    for folder, kind in _KINDS.items():
        parent = root if (root / folder).is_dir() else root.parent if root.name == folder else None
        if parent is None:
            continue
        try:
            parts = [getattr(datasets, kind.name)(parent, **arguments) for arguments in kind.parts[split]]
        except (RuntimeError, OSError, ValueError) as error:
            fetch = f"from torchvision.datasets import {kind.name}; {kind.name}('{parent}', download=True)"
            raise UserError(
                f"{parent / folder} is damaged or incomplete ({in_brief(error)}); let torchvision fetch it "
                f'again: python -c "{fetch}"'
            ) from error
        return TorchvisionSamples(parts, folder, split)
    return None


def _images_of(dataset: Any) -> Sequence[Any]:
    for attribute in ("data", "_image_files", "_images"):  # CIFAR, Flowers-102, Pets
        if hasattr(dataset, attribute):
            images: Sequence[Any] = getattr(dataset, attribute)
            return images
    raise TypeError(f"{type(dataset).__name__} keeps its images in no known place")


def _labels_of(dataset: Any) -> Sequence[Any]:
    labels: Sequence[Any] = dataset.targets if hasattr(dataset, "targets") else dataset._labels
    return labels
