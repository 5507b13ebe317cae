"""Well-known data sets whose images or labels lie in files of their own formats, read by torchvision: CIFAR, Flowers-102 and others.

They are recognised by what lies in their folder, whatever it is called. torchvision checks the files' MD5 sums, where it has
them, and knows the official splits. Nothing is downloaded here: a cluster's compute nodes often have no internet, and an
evaluation should not wait for it.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sar_dist.data.layout import Split, SplitChoice, chosen_split, member_extension, split_folders
from sar_dist.data.making.sources.base import Source, choose_splits, read_bytes, size_of_file, unique_keys
from sar_dist.data.making.sources.command import SourceCommand, no_arguments
from sar_dist.errors import UserError, in_brief
from sar_dist.output import warn


@dataclass(frozen=True)
class _Kind:
    """A data set class of torchvision.

    Attributes:
        name: of the class.
        folder: in which it wants the files, below its root.
        marks: files, and folders with "/" behind them, there by which the set is known.
        parts: the constructor arguments of the parts that make up a split.
        called: a word in the folder's path, for sets whose files are called alike.
        elsewhere: where a file may lie besides, by where torchvision looks for it.
        hint: what to do where it is not complete, for a set that torchvision does not fetch.
    """

    name: str
    folder: str
    marks: tuple[str, ...]
    parts: Mapping[Split, tuple[dict[str, Any], ...]]
    called: str = ""
    elsewhere: Mapping[str, str] = field(default_factory=dict)
    hint: str = ""


def _named(*splits: tuple[str, ...]) -> dict[Split, tuple[dict[str, Any], ...]]:
    """Parts that an argument ``split`` names, of the training and of the validation split."""
    train, val = splits
    return {"train": tuple({"split": split} for split in train), "val": tuple({"split": split} for split in val)}


_FLAG: dict[Split, tuple[dict[str, Any], ...]] = {"train": ({"train": True},), "val": ({"train": False},)}
_TRAIN_AND_TEST = _named(("train",), ("test",))
_IDX = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
_CARS_LABELS = "cars_test_annos_withlabels.mat"
# Sets that have three splits are trained on what the literature trains on, training and validation images together, and
# scored on the test images. Of those whose files are called alike the first whose word is in the path counts.
_KINDS = (
    _Kind("CIFAR10", "cifar-10-batches-py", ("data_batch_1", "test_batch"), _FLAG),
    _Kind("CIFAR100", "cifar-100-python", ("train", "test", "meta"), _FLAG),
    _Kind("Flowers102", "flowers-102", ("jpg/", "imagelabels.mat", "setid.mat"), _named(("train", "val"), ("test",))),
    _Kind(
        "OxfordIIITPet",
        "oxford-iiit-pet",
        ("images/", "annotations/list.txt", "annotations/trainval.txt", "annotations/test.txt"),
        _named(("trainval",), ("test",)),
    ),
    _Kind(
        "FGVCAircraft",
        "fgvc-aircraft-2013b",
        ("data/images/", "data/variants.txt", "data/images_variant_test.txt"),
        _named(("trainval",), ("test",)),
    ),
    _Kind("Food101", "food-101", ("images/", "meta/train.json", "meta/test.json"), _TRAIN_AND_TEST),
    _Kind("DTD", "dtd/dtd", ("images/", "labels/train1.txt", "labels/test1.txt"), _named(("train", "val"), ("test",))),
    _Kind(
        "StanfordCars",
        "stanford_cars",
        ("cars_train/", "devkit/cars_train_annos.mat", "devkit/cars_meta.mat"),
        _TRAIN_AND_TEST,
        elsewhere={_CARS_LABELS: f"devkit/{_CARS_LABELS}"},
        hint=f"it needs cars_train/, cars_test/, devkit/ and, for the test images, {_CARS_LABELS}; --split train makes the training images alone",
    ),
    _Kind("STL10", "stl10_binary", ("train_X.bin", "train_y.bin", "test_X.bin", "test_y.bin"), _TRAIN_AND_TEST),
    _Kind("SVHN", "", ("train_32x32.mat", "test_32x32.mat"), _TRAIN_AND_TEST),
    _Kind("FashionMNIST", "FashionMNIST/raw", _IDX, _FLAG, called="fashion"),
    _Kind("KMNIST", "KMNIST/raw", _IDX, _FLAG, called="kmnist"),
    _Kind("MNIST", "MNIST/raw", _IDX, _FLAG, called="mnist"),
)
# Of SVHN's other form, whose images are whole numbers.
_DIGITS = "digitStruct.mat"
# Further down than the folder that is given: torchvision's own folder, or the one that an archive was unpacked into.
_MOST_FOLDERS = 30


class TorchvisionSource(Source):
    """A split of a torchvision data set: files as they lie on disk, or arrays as lossless PNG files."""

    def __init__(self, parts: Sequence[Any], kind: _Kind, split: Split, folder: Path, read_at: Path) -> None:
        # An array of pixels, or the path of a file, for each sample.
        self._images = [_placed(image, folder, read_at) for part in parts for image in _images_of(part)]
        self._labels = [int(label) for part in parts for label in _labels_of(part)]
        names = getattr(parts[0], "classes", None)
        self.split = split
        self.classes = tuple(map(str, names)) if names is not None else None
        if self.classes is not None and max(self._labels, default=0) >= len(self.classes):
            raise UserError(
                f"{folder} gives a {split} image a label {max(self._labels)} and names images of {len(self.classes)} classes alone: it is "
                f"not all of {kind.name}; complete it"
            )
        self._kind = kind
        files = [image for image in self._images if isinstance(image, Path)]
        self._keys = unique_keys([str(file) for file in files]) if files else []

    def __len__(self) -> int:
        return len(self._labels)

    def sample(self, number: int) -> tuple[str, Mapping[str, bytes]]:
        label, image = str(self._labels[number]).encode(), self._images[number]
        if isinstance(image, Path):
            return self._keys[number], {member_extension(image.name): read_bytes(image), "cls": label}
        png = io.BytesIO()
        Image.fromarray(image).save(png, "PNG", compress_level=0)
        return f"{number:06d}", {"png": png.getvalue(), "cls": label}

    def description(self) -> dict[str, Any]:
        return {"kind": "torchvision", "folder": self._kind.folder or self._kind.name}

    def digest(self) -> str:
        names = [image.name for image in self._images if isinstance(image, Path)]
        arrays = hashlib.sha256()
        for image in self._images:
            if not isinstance(image, Path):
                arrays.update(image.tobytes())
        return json.dumps([f"{self._kind.folder}/{self.split}", self._labels, names]) + arrays.hexdigest()

    def size(self) -> int:
        return sum(size_of_file(image) if isinstance(image, Path) else image.nbytes for image in self._images)

    def files(self) -> Iterator[str]:
        return (str(image) for image in self._images if isinstance(image, Path))


def open_torchvision_source(root: Path, split: Split) -> TorchvisionSource | None:
    """The split of a set that torchvision reads and whose folder is ``root``, or lies in it; None where there is none.

    Raises:
        UserError: the folder is there but not what torchvision stored, or is one of several sets in ``root``.
    """
    found = _find(root)
    if found is None:
        return None
    kind, folder = found
    if folder != root and has_splits(root):
        raise UserError(
            f"{root} holds splits and, beside them, {kind.name} in {folder.relative_to(root)}: give {folder} for that, or move it away for "
            "the splits"
        )
    return _open(kind, folder, split)


def torchvision_command(root: Path) -> str | None:
    """What to say of a folder that holds such a set: what it is, and the command that makes shards of it; None: there is none."""
    found = _find_all(root)
    if not found:
        return _whole_numbers(root)
    kind, folder = found[0]
    return (
        f"{folder} is {kind.name} as torchvision reads it: `make_shards.py torchvision {folder} OUT` makes shards of it"
    )


def _whole_numbers(root: Path) -> str | None:
    """What to say of SVHN's other form; None: it is not that."""
    file = next((file for folder in (".", "train", "test") if (file := root / folder / _DIGITS).is_file()), None)
    if file is None:
        return None
    return (
        f"{file} is of SVHN's whole house numbers, several digits an image; fetch its single digits, train_32x32.mat and "
        "test_32x32.mat, which `make_shards.py torchvision` reads"
    )


def torchvision_sources(root: Path, split: Split | SplitChoice | None = None) -> list[TorchvisionSource]:
    """Training and test images of a set that torchvision reads, as training and validation split; ``split``: that one alone.

    Raises UserError.
    """
    found = _find(root)
    if found is None and (other := _whole_numbers(root)) is not None:
        raise UserError(other)
    if found is None:
        names = ", ".join(kind.name for kind in _KINDS)
        raise UserError(
            f"{root} holds none of the sets that torchvision reads here ({names}), unpacked and with their files' own names; "
            "`make_shards.py imagefolder` takes folders that are classes, `csv` and `lists` a table or list of images"
        )
    choice = chosen_split(split)
    splits: dict[str, Split] = {"train": "train", "val": "val", "test": "val"}
    whole: dict[str, Split] = {"train": "train", "val": "val"}
    made: dict[Split, Split] = choose_splits(splits if choice is not None else whole, choice, root)
    kind, folder = found
    parts = {name: " and ".join(_said(part) for part in kind.parts[name]) for name in made.values()}
    warn(f"{folder}: {kind.name}, of which " + ", ".join(f"{name} is its {part}" for name, part in parts.items()))
    sources = []
    for wanted, own in made.items():
        source = _open(kind, folder, own)
        source.split = wanted
        sources.append(source)
    return sources


def _said(arguments: Mapping[str, Any]) -> str:
    """The split that constructor arguments mean, in a word."""
    return str(arguments.get("split", "train" if arguments.get("train") else "test"))


def _find(root: Path) -> tuple[_Kind, Path] | None:
    """The set in ``root``, or in a folder up to two levels further down, and its folder; None: there is none. Raises UserError: several."""
    found = _find_all(root)
    if len(found) > 1:
        (first, folder), (second, other) = found[:2]
        raise UserError(
            f"{root} holds {first.name} in {folder} and {second.name} in {other}: give the folder of one of them"
        )
    return found[0] if found else None


def _find_all(root: Path) -> list[tuple[_Kind, Path]]:
    """The sets in ``root``: itself alone, or every folder up to two levels further down that is one."""
    named = [root / kind.folder for kind in _KINDS if kind.folder and (root / kind.folder).is_dir()]
    folders = [root, *named]
    if not has_splits(root):
        children = _folders(root)
        folders += children
        if len(children) == 1:  # an archive unpacked into a folder of its name
            folders += _folders(children[0])
    found: dict[str, tuple[_Kind, Path]] = {}
    for folder in folders:
        path = os.path.abspath(folder)
        kind = next((kind for kind in _KINDS if kind.called in path.lower() and _is_of(kind, folder)), None)
        if kind is not None:
            found.setdefault(os.path.realpath(path), (kind, folder))
            if folder == root:
                break
    return list(found.values())


def _is_of(kind: _Kind, folder: Path) -> bool:
    """Whether a folder holds the files of a set, or is called like it and holds no splits: then files are missing."""
    marks = ((folder / mark).is_dir() if mark.endswith("/") else (folder / mark).is_file() for mark in kind.marks)
    return all(marks) or (kind.folder != "" and folder.name == kind.folder and not has_splits(folder))


def has_splits(folder: Path) -> bool:
    """Whether a folder holds some that are splits, also where it is not clear which."""
    try:
        return bool(split_folders(folder))
    except UserError:
        return True


def _folders(folder: Path) -> list[Path]:
    """The folders in one that holds few: of classes there are more, and none of them is a set."""
    try:
        with os.scandir(folder) as entries:
            found = sorted(entry.name for entry in entries if entry.is_dir())
    except OSError:
        return []
    return [folder / name for name in found] if len(found) <= _MOST_FOLDERS else []


def _open(kind: _Kind, folder: Path, split: Split) -> TorchvisionSource:
    from torchvision import datasets  # takes seconds, which other formats need not wait for

    with tempfile.TemporaryDirectory() as root:  # torchvision wants folders of its own names
        place = Path(root, kind.folder) if kind.folder else Path(root, "set")
        place.parent.mkdir(parents=True, exist_ok=True)
        _link(kind, place, Path(os.path.abspath(folder)))
        try:
            parts = [
                getattr(datasets, kind.name)(Path(root) if kind.folder else place, **arguments)
                for arguments in kind.parts[split]
            ]
        except (ImportError, RuntimeError, OSError, ValueError, KeyError) as error:
            if "scipy" in in_brief(error).lower():
                raise UserError(
                    f"{folder}: {kind.name} has .mat files, which scipy reads; `pip install scipy`, and give the same command again"
                ) from error
            fetch = f"from torchvision.datasets import {kind.name}; {kind.name}('NEW', download=True)"
            reason = in_brief(error).replace(str(place), str(folder))
            do = kind.hint or f'let torchvision fetch it again into a folder NEW: python -c "{fetch}"'
            raise UserError(
                f"{folder}, {kind.name} as torchvision reads it, is damaged or incomplete ({reason}); {do}"
            ) from error
        return TorchvisionSource(parts, kind, split, folder, place)


def _link(kind: _Kind, place: Path, folder: Path) -> None:
    """Let ``place`` lead to a set's ``folder``, or hold what is in it and files that lie elsewhere there."""
    moved = [(name, other) for name, other in kind.elsewhere.items() if not (folder / name).exists()]
    moved = [(name, other) for name, other in moved if (folder / other).is_file()]
    if not moved:
        place.symlink_to(folder)
        return
    place.mkdir()
    for path in folder.iterdir():
        (place / path.name).symlink_to(path)
    for name, other in moved:
        (place / name).unlink(missing_ok=True)  # a link to nothing
        (place / name).symlink_to(folder / other)


def _images_of(dataset: Any) -> Sequence[Any]:
    if hasattr(dataset, "_samples"):  # Stanford Cars: pairs
        return [image for image, _ in dataset._samples]
    for attribute in ("data", "_image_files", "_images"):  # CIFAR, Flowers-102, Pets
        if hasattr(dataset, attribute):
            images = getattr(dataset, attribute)
            if isinstance(images, list | tuple):
                return images
            pixels = np.asarray(images)
            # STL10 and SVHN have their three channels before rows and columns.
            return list(pixels.transpose(0, 2, 3, 1) if pixels.ndim == 4 and pixels.shape[1] == 3 else pixels)
    raise TypeError(f"{type(dataset).__name__} keeps its images in no known place")


def _placed(image: Any, folder: Path, read_at: Path) -> Path | np.ndarray:
    """An array as it is; a path below ``folder``, where torchvision knows it below ``read_at``."""
    if isinstance(image, np.ndarray):
        return np.ascontiguousarray(image)
    path = Path(image)
    return folder / path.relative_to(read_at) if path.is_relative_to(read_at) else path


def _labels_of(dataset: Any) -> Sequence[Any]:
    if hasattr(dataset, "_samples"):
        return [label for _, label in dataset._samples]
    for attribute in ("targets", "labels", "_labels"):
        if hasattr(dataset, attribute):
            labels: Sequence[Any] = getattr(dataset, attribute)
            return labels
    raise TypeError(f"{type(dataset).__name__} keeps its labels in no known place")


def _sources(given: argparse.Namespace) -> list[TorchvisionSource]:
    return torchvision_sources(given.source, given.split)


COMMAND: SourceCommand = SourceCommand(
    name="torchvision",
    usage="torchvision SRC OUT",
    summary="CIFAR-10/100, MNIST, SVHN, STL10, Flowers-102, Pets, Aircraft, Food-101, DTD, Stanford Cars as downloaded",
    add_arguments=no_arguments,
    sources=_sources,
)
