"""ImageNet-1k (ILSVRC 2012) as it is downloaded: image-net.org's archives, which stay packed, or Kaggle's folders.

Training images are in ``ILSVRC2012_img_train.tar``, a tar of one tar for each class, or in ``train/n01440764/`` and so on;
validation images in ``ILSVRC2012_img_val.tar`` or ``val/``, where they lie beside each other, without their class. That is in
``ILSVRC2012_devkit_t12.tar.gz`` or in ``LOC_val_solution.csv``. What is unpacked in part is read as it lies.
"""

from __future__ import annotations

import argparse
import hashlib
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from sar_dist.data.layout import (
    CLASSES_NAME,
    ClassTable,
    Split,
    SplitChoice,
    chosen_split,
    is_image_name,
    is_left_over,
    member_extension,
    no_plain_tar,
    read_class_table,
)
from sar_dist.data.making.sources.base import Source, choose_splits, size_of_file, unique_keys, warn_of_empty
from sar_dist.data.making.sources.command import SourceCommand, no_arguments
from sar_dist.data.making.sources.imagenet_classes import (
    DEVKIT,
    SOLUTION,
    ImageNetClasses,
    class_names,
    is_synset,
    read_classes,
)
from sar_dist.data.shards import BLOCK, Member, walk_members
from sar_dist.errors import UserError
from sar_dist.output import warn
from sar_dist.progress import track

_NAMES: dict[Split, tuple[str, str]] = {
    "train": ("ILSVRC2012_img_train", "train"),
    "val": ("ILSVRC2012_img_val", "val"),
}
# Below the folder that is given, as Kaggle has it.
_BELOW = ("", "ILSVRC/Data/CLS-LOC", "Data/CLS-LOC")


class _Part(NamedTuple):
    """Images that lie together: a folder, or a tar that is ``size`` bytes of ``place`` from ``offset`` on (None: a folder).

    ``synset`` is the class of all of them; None: each is of its own.
    """

    place: Path
    synset: str | None
    offset: int | None = None
    size: int = 0


class _Image(NamedTuple):
    """An image file: where it lies (a range of an archive, or a whole file), and its class."""

    place: str
    offset: int
    size: int
    name: str
    synset: str


def imagenet_sources(root: Path, split: Split | SplitChoice | None = None) -> list[ImageNetSource]:
    """The training and validation images of ImageNet-1k below ``root``, as far as they are there; ``split``: that one alone.

    Labels are the places of the training images' synsets in alphabetical order, which for the whole set are ImageNet's usual
    ones, or what a ``classes.json`` in ``root`` says. Validation images of other classes are left out and counted.

    Raises:
        UserError: no such images, an archive that is damaged, or validation images whose class nothing says.
    """
    folders = [root / below for below in _BELOW]
    found: dict[str, list[_Part]] = {name: parts for name in _NAMES if (parts := _find_parts(folders, name))}
    if not found:
        expected = " or ".join(f"{archive}.tar or {folder}/" for archive, folder in _NAMES.values())
        raise UserError(
            f"{root} holds no images of ImageNet-1k as they are downloaded, {expected}; `make_shards.py imagefolder` takes any "
            "folders that are classes"
        )
    for name, (archive, folder) in _NAMES.items():
        if name not in found and split is None:
            warn(f"{root}: no {name} images, {archive}.tar or {folder}/; that split is not made")
    choice = chosen_split(split)
    made = choose_splits(found, choice, root)
    known = read_classes(folders)
    table = _class_table(root, found, known)
    return [ImageNetSource(root, name, _images(root, parts, known, table), table) for name, parts in made.items()]


def _class_table(root: Path, found: Mapping[str, Sequence[_Part]], known: ImageNetClasses) -> ClassTable:
    synsets = {part.synset for part in found.get("train", found.get("val", ())) if part.synset is not None}
    synsets = synsets or set(known.of_validation.values())
    if not synsets:
        raise UserError(_without_classes(root))
    if os.path.lexists(root / CLASSES_NAME):
        return read_class_table(sorted(synsets), root / CLASSES_NAME)
    ordered = sorted(synsets)
    return ClassTable({synset: label for label, synset in enumerate(ordered)}, class_names(ordered, known.words))


def _without_classes(root: Path) -> str:
    return (
        f"nothing in {root} says of which classes the validation images are; put {DEVKIT}.tar.gz (image-net.org) or {SOLUTION} "
        "(Kaggle) there, or give --split train"
    )


def _find_parts(folders: Sequence[Path], split: Split) -> list[_Part]:
    """Where the images of a split lie; empty: nowhere. Raises UserError where they are there twice."""
    archive, short = _NAMES[split]
    files = [path for folder in folders if (path := folder / f"{archive}.tar").is_file()]
    trees = [path for folder in folders for name in (archive, short) if (path := folder / name).is_dir()]
    if len(files) + len(trees) > 1:
        raise UserError(
            f"the {split} images are there twice, in {' and '.join(map(str, [*files, *trees][:2]))}; move one of them away"
        )
    if trees:
        return _parts_of_folder(trees[0])
    if not files:
        return []
    size = size_of_file(files[0])
    if split == "val":
        return [_Part(files[0], None, 0, size)]
    return [_part_of_member(files[0], member) for member in _members(_Part(files[0], None, 0, size))]


def _part_of_member(archive: Path, member: Member) -> _Part:
    name = member.name.removeprefix("./").removesuffix(".tar")
    if not is_synset(name):
        raise UserError(
            f"{archive} holds {member.name}, where a tar for each class was expected, such as n01440764.tar"
        )
    return _Part(archive, name, member.data, member.size)


def _parts_of_folder(folder: Path) -> list[_Part]:
    """Folders and tars of classes in ``folder``, and the folder itself for images of no class."""
    parts, beside, others = [], 0, []
    for name in _listed(folder):
        path = folder / name
        if is_left_over(name):
            continue
        if path.is_dir() and is_synset(name):
            parts.append(_Part(path, name))
        elif name.endswith(".tar") and is_synset(name.removesuffix(".tar")):
            parts.append(_Part(path, name.removesuffix(".tar"), 0, size_of_file(path)))
        elif is_image_name(name):
            beside += 1
        else:
            others.append(name)
    if others:
        warn(
            f"{folder}: left out {len(others)} files and folders that are no images or classes of ImageNet, such as {others[0]}"
        )
    synsets = [part.synset for part in parts]
    if len(set(synsets)) < len(synsets):
        twice = next(synset for synset in synsets if synsets.count(synset) > 1)
        raise UserError(f"{folder} holds the class {twice} twice, as a folder and packed; move one of them away")
    return [*parts, _Part(folder, None)] if beside else parts


def _images(root: Path, parts: Sequence[_Part], known: ImageNetClasses, table: ClassTable) -> list[_Image]:
    """The images in ``parts`` of classes that the table has; says which were left out."""
    images, ignored, foreign, unknown, beside = [], [], [], [], []
    for part in track(parts, len(parts), "looking for images"):
        for name, place, offset, size in _files(part):
            if not is_image_name(name) or is_left_over(name):
                ignored.append(name)
                continue
            if part.synset is None:
                beside.append(name)
            synset = part.synset or known.of_validation.get(name.rpartition(".")[0])
            if synset is None:
                unknown.append(name)
            elif synset not in table.labels:
                foreign.append(name)
            else:
                images.append(_Image(place, offset, size, name, synset))
    if unknown and not known.of_validation:
        raise UserError(_without_classes(root))
    if unknown:
        raise UserError(
            f"nothing in {root} says of which class {unknown[0]} is, and {len(unknown) - 1} others; the images and the list of "
            "their classes must be of one set, under their original names"
        )
    for left_out, what in (
        (ignored, "files that are no images by name"),
        (foreign, "images of classes without training images"),
    ):
        if left_out:
            warn(f"{root}: left out {len(left_out)} {what}, such as {left_out[0]}")
    warn_of_empty(root, [image.name for image in images if image.size == 0])
    images.sort(key=lambda image: (image.synset, image.name))
    _refuse_repeated(root, images, beside)
    return images


def _refuse_repeated(root: Path, images: Sequence[_Image], beside: Sequence[str]) -> None:
    """Raise UserError where a class has an image twice, or where one ``beside`` the class folders is in one of them too."""
    for image, following in pairwise(images):
        if (image.synset, image.name) == (following.synset, following.name):
            raise UserError(
                f"{root} holds {image.name} of {image.synset} twice; restore the archive or remove one of them"
            )
    count = Counter(image.name for image in images)
    twice = next((name for name in beside if count[name] > 1), None)
    if twice is not None:
        raise UserError(
            f"{root} holds {twice} twice, in the folder of a class and beside the class folders; remove one of them"
        )


def _files(part: _Part) -> Iterator[tuple[str, str, int, int]]:
    """Name, file, offset and size of everything in a part; of a folder of images of no class, of these alone."""
    if part.offset is not None:
        for member in _members(part):
            yield member.name.rpartition("/")[2], str(part.place), member.data + part.offset, member.size
        return
    for name in _listed(part.place):
        path = part.place / name
        if path.is_file() and (part.synset is not None or is_image_name(name)):
            yield name, str(path), 0, size_of_file(path)
        elif part.synset is not None and not is_left_over(name) and path.is_dir():
            _refuse_images(path)


def _refuse_images(folder: Path) -> None:
    """Raise UserError where a folder within that of a class holds images, which would be left out."""
    for _, _, names in os.walk(folder):
        inside = [name for name in names if is_image_name(name) and not is_left_over(name)]
        if inside:
            raise UserError(
                f"{folder} is a folder within that of a class and holds images, such as {inside[0]}; move them up into the "
                "class's own folder, or move the folder away"
            )


def _members(part: _Part) -> Iterator[Member]:
    """The files in a tar, or in a tar within a tar; offsets count from its beginning. Raises UserError at damage."""
    begin = part.offset or 0
    try:
        file = os.open(part.place, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise UserError(f"cannot read {part.place}: {error.strerror}") from None
    try:
        other = no_plain_tar(os.pread(file, BLOCK, begin))
        if other is not None:
            raise UserError(f"{part.place} {other}")
        name = part.place.name if part.synset is None else f"{part.place.name}, {part.synset}"
        yield from walk_members(lambda offset, count: os.pread(file, count, begin + offset), part.size, name)
    finally:
        os.close(file)


def _listed(folder: Path) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError as error:
        raise UserError(f"cannot read {folder}: {error.strerror}") from None


class ImageNetSource(Source):
    """Images that are files, or ranges of archives, with the label of their class."""

    def __init__(self, root: Path, split: Split, images: Sequence[_Image], table: ClassTable) -> None:
        self.split = split
        self.classes = table.names
        self._root = root
        self._images = images
        self._labels = table.labels
        self._keys = unique_keys([f"{image.synset}/{image.name}" for image in images])

    def __len__(self) -> int:
        return len(self._images)

    def sample(self, number: int) -> tuple[str, Mapping[str, bytes]]:
        image = self._images[number]
        members = {member_extension(image.name): _read(image), "cls": str(self._labels[image.synset]).encode()}
        return self._keys[number], members

    def description(self) -> dict[str, Any]:
        return {"kind": "imagenet", "folder": self._root.resolve().name}

    def digest(self) -> str:
        digest = hashlib.sha256()
        for image in self._images:
            digest.update(f"{image.synset}/{image.name} {image.size} {self._labels[image.synset]}\n".encode())
        return digest.hexdigest()

    def size(self) -> int:
        return sum(image.size for image in self._images)


def _read(image: _Image) -> bytes:
    try:
        file = os.open(image.place, os.O_RDONLY | os.O_CLOEXEC)
        try:
            data = os.pread(file, image.size, image.offset)
        finally:
            os.close(file)
    except OSError as error:
        raise UserError(
            f"cannot read {image.name} in {image.place}: {error.strerror}; give the same command again"
        ) from None
    if len(data) != image.size:
        raise UserError(f"{image.place} changed while it was read; give the same command again when it no longer does")
    return data


def _sources(given: argparse.Namespace) -> list[ImageNetSource]:
    return imagenet_sources(given.source, given.split)


COMMAND: SourceCommand = SourceCommand(
    name="imagenet",
    usage="imagenet SRC OUT",
    summary="ImageNet-1k as downloaded: image-net.org's archives or Kaggle's folders",
    add_arguments=no_arguments,
    sources=_sources,
)
