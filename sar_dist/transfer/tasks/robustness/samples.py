"""ImageNet's robustness sets as samples whose labels are ImageNet-1k class indices, whatever part of the classes they have.

The index lists and the ReaL labels are those that timm ships (``timm/data/_info``).
"""

from __future__ import annotations

import functools
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sar_dist.data.layout import (
    class_folders,
    is_image_name,
    is_left_over,
    member_extension,
    split_folders,
)
from sar_dist.data.making.sources import read_bytes
from sar_dist.data.shards import LABEL_EXTENSION, parse_label
from sar_dist.errors import UserError
from sar_dist.output import warn
from sar_dist.transfer import (
    RelabelledSamples,
    SampleSet,
    ShardSamples,
    digest_of_files,
    imagenet_synsets,
    open_shard_samples,
    places_of_words,
)

IMAGENET_CLASSES = 1000
_VALIDATION_IMAGE = re.compile(r"ILSVRC2012_val_(\d{8})")


class LabelledFile(NamedTuple):
    """Path below a folder, and label."""

    path: str
    label: int


class FolderSamples:
    """Image files below a folder with given labels.

    The fingerprint is of paths, labels and states: sets of millions of files are not opened before they are used.
    """

    classes: tuple[str, ...] | None = None

    def __init__(self, root: Path, files: Sequence[LabelledFile]) -> None:
        self._root = root
        self._files = files
        self.fingerprint = digest_of_files(json.dumps(files), (os.path.join(root, file.path) for file in files))

    def __len__(self) -> int:
        return len(self._files)

    def sample(self, number: int) -> tuple[str, Mapping[str, bytes]]:
        path, label = self._files[number]
        key = path.rpartition("/")[2].rpartition(".")[0]
        return key, {member_extension(path): read_bytes(self._root / path), "cls": str(label).encode()}


@dataclass(frozen=True)
class FoundSamples:
    """Samples with ImageNet labels, and the classes that the set is made of.

    ``by_number`` says that labels are taken for ImageNet's numbers, as no names tell what they are.
    """

    samples: SampleSet
    labels: frozenset[int]
    by_number: bool = False


def class_indices(name: str) -> NDArray[np.int64]:
    """Sorted ImageNet-1k indices of the 200 classes of ``imagenet_a`` or ``imagenet_r``."""
    return np.array([int(line) for line in _timm_list(f"{name}_indices.txt")], dtype=np.int64)


@functools.cache
def real_labels() -> tuple[frozenset[int], ...]:
    """The set of right classes of each ImageNet validation image, by its number less 1 (Beyer et al. 2020)."""
    text = (resources.files("timm.data") / "_info" / "imagenet_real_labels.json").read_text()
    return tuple(frozenset(labels) for labels in json.loads(text))


def class_index(folder: str) -> int | None:
    """ImageNet-1k index of a folder called by a WordNet id, or by the index itself as in ImageNetV2; None: neither."""
    if folder.isascii() and folder.isdecimal() and int(folder) < IMAGENET_CLASSES:
        return int(folder)
    return imagenet_synsets().get(folder)


def list_class_folders(root: Path) -> list[LabelledFile]:
    """The images in ``root/CLASS/``, ordered by class index and name.

    Raises:
        UserError: no class folders, or one that names no class of ImageNet-1k.
    """
    tree = class_folders(root)
    for line in (*tree.remarks, *tree.left_out()):
        warn(f"{root}: {line}")
    unknown = [folder.name for folder in tree.classes if class_index(folder.name) is None]
    if unknown:
        raise UserError(
            f"{root / unknown[0]} names no class of ImageNet-1k; expected folders like n01440764, or 0 to 999"
        )
    found = [
        LabelledFile(path, index)
        for folder in tree.classes
        if (index := class_index(folder.name)) is not None
        for path in folder.images
    ]
    return sorted(found, key=lambda file: (file.label, file.path))


def open_class_folders(
    root: Path,
    names: Sequence[str],
    data_help: str,
    label: str = LABEL_EXTENSION,
    known: tuple[str, ...] | None = None,
) -> FoundSamples:
    """The set at ``root`` or in one of the folders ``names`` below it; class folders, or shards made of them.

    ``known`` are names of ImageNet's classes by number, those of the model.

    Raises:
        UserError: there is no such thing, or twice, or its classes are not ImageNet's.
    """
    places = {place.resolve(): place for place in (*(root / name for name in names), root) if place.is_dir()}
    folders = [place for place in places.values() if any(class_index(name) is not None for name in os.listdir(place))]
    if len(folders) > 1:
        raise UserError(
            f"there are class folders in {folders[0]} and in {folders[1]}; move one set away, or give --data {folders[0]}"
        )
    if folders:
        files = list_class_folders(folders[0])
        return FoundSamples(FolderSamples(folders[0], files), frozenset(file.label for file in files))
    shards = open_shard_samples(
        root, "val", label
    )  # last: the archive of a set may lie beside its folders, and is no shard
    if shards is not None:
        _refuse_packed_folders(shards, root)
        shards.check_labels()
        return _with_imagenet_labels(shards, root, known)
    raise UserError(f"no class folders in {root}{_what_is_there(root)}; expected {data_help}")


def _refuse_packed_folders(shards: ShardSamples, root: Path) -> None:
    """Raise UserError for an archive of class folders, as these sets are downloaded: it is a tar without labels, too."""
    if len(shards) and not shards.labels():
        key, _ = shards.sample(0)
        if any(class_index(folder) is not None for folder in key.split("/")[:-1]):
            raise UserError(
                f"the tar in {root} holds class folders, such as that of {key}, and no labels: unpack it there (tar -xf)"
            )


def _what_is_there(root: Path) -> str:
    """In words, what of the folders in ``root`` could have been meant."""
    try:
        folders = sorted(entry.name for entry in os.scandir(root) if entry.is_dir() and not is_left_over(entry.name))
        of_classes = [
            name for name in folders if any(class_index(found) is not None for found in os.listdir(root / name))
        ]
    except OSError as error:
        return f" ({error.strerror})"
    if of_classes:
        return f", but in {of_classes[0]} there; give {root / of_classes[0]}"
    if not folders:
        return ", and no other folder"
    first = ", ".join(folders[:3]) + (" and others" if len(folders) > 3 else "")
    return f", but {len(folders)} others: {first}; classes go by WordNet ids such as n01443537, not by words"


def open_validation_images(root: Path, data_help: str) -> SampleSet:
    """ImageNet's validation images, labelled with their number less 1: shards, or a folder with them at any depth.

    Raises:
        UserError: there is no such image, or one that occurs twice.
    """
    folder = split_folders(root).get("val", root)
    paths = _image_paths(folder)
    files = sorted(
        (LabelledFile(path, int(match.group(1)) - 1) for path in paths if (match := _VALIDATION_IMAGE.search(path))),
        key=lambda file: file.label,
    )
    shards = open_shard_samples(root, "val") if not files else None
    if shards is not None:
        image_number(*shards.sample(0))
        return RelabelledSamples(shards, image_number, "number of the validation image")
    if not files:
        raise UserError(f"no files called ILSVRC2012_val_00000001.JPEG and so on in {folder}; expected {data_help}")
    numbers = [file.label for file in files]
    if len(set(numbers)) != len(numbers) or not 0 <= numbers[0] <= numbers[-1] < len(real_labels()):
        raise UserError(f"{folder} has a validation image twice, or one with a number above {len(real_labels())}")
    others = [path for path in paths if _VALIDATION_IMAGE.search(path) is None]
    if others:
        warn(f"{folder}: left out {len(others)} images that are not called like validation images, such as {others[0]}")
    return FolderSamples(folder, files)


def image_number(key: str, _members: Mapping[str, bytes]) -> int:
    """Number less 1 of the ImageNet validation image that a key names. Raises UserError."""
    match = _VALIDATION_IMAGE.search(key)
    if match is None or not 1 <= int(match.group(1)) <= len(real_labels()):
        raise UserError(
            f"sample {key} does not name a validation image, as ILSVRC2012_val_00000001 does, by which the ReaL labels "
            "are numbered; make the shards from files with their original names"
        )
    return int(match.group(1)) - 1


@dataclass(frozen=True)
class _MappedLabel:
    """The ImageNet label of a sample whose label counts the set's own classes."""

    table: tuple[int, ...]

    def __call__(self, key: str, members: Mapping[str, bytes]) -> int:
        label = parse_label(members.get("cls", b""))
        if not 0 <= label < len(self.table):
            raise UserError(f"sample {key} has no label, or one beyond the {len(self.table)} classes of its manifest")
        return self.table[label]


def _with_imagenet_labels(shards: ShardSamples, root: Path, known: tuple[str, ...] | None) -> FoundSamples:
    """Shards count the class folders that they were made of in alphabetical order; their names say which those were."""
    if shards.classes is None:
        return FoundSamples(shards, frozenset(shards.labels()), by_number=True)
    indices = [class_index(name) for name in shards.classes]
    table = tuple(index for index in indices if index is not None)
    if len(table) == len(indices):
        return FoundSamples(RelabelledSamples(shards, _MappedLabel(table), f"labels {table}"), frozenset(table))
    right, wrong = places_of_words(shards.classes)
    # In ImageNet's order though in words: those of the model, or mostly WordNet's, as lists differ in a few.
    if len(indices) == IMAGENET_CLASSES and (shards.classes == known or right > len(wrong)):
        return FoundSamples(shards, frozenset(range(IMAGENET_CLASSES)))
    raise UserError(
        f"the manifest in {root} names {len(indices)} classes, such as {shards.classes[0]!r}, that are not WordNet ids, nor all of "
        "ImageNet-1k's in its order; make the shards from folders like n01440764 without a classes.json"
    )


def _image_paths(root: Path) -> list[str]:
    """Paths below ``root`` of the images at any depth, sorted; links are followed, but into no folder twice. Raises UserError."""
    paths: list[str] = []
    seen: set[tuple[int, int]] = set()
    todo = [""]
    while todo:
        folder = todo.pop()
        try:
            state = os.stat(root / folder)
            if (state.st_dev, state.st_ino) in seen:
                continue
            seen.add((state.st_dev, state.st_ino))
            with os.scandir(root / folder) as entries:
                kept = [(f"{folder}{entry.name}", entry.is_dir()) for entry in entries if not is_left_over(entry.name)]
        except OSError as error:
            raise UserError(f"cannot read {root / folder}: {error.strerror}") from None
        todo += [f"{path}/" for path, is_folder in kept if is_folder]
        paths += [path for path, is_folder in kept if not is_folder and is_image_name(path)]
    return sorted(paths)


def _timm_list(name: str) -> list[str]:
    return (resources.files("timm.data") / "_info" / name).read_text().split()
