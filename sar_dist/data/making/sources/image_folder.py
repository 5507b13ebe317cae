"""Trees of class folders, the layout of torchvision's ImageFolder."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sar_dist.data.shards import SPLIT_NAMES, Split
from sar_dist.randomness import keyed_permutation
from sar_dist.data.making.sources.base import FileSample, FileSource, member_extension, read_bytes, unique_keys
from sar_dist.data.shards import IMAGE_EXTENSIONS
from sar_dist.errors import UserError

CLASSES_NAME = "classes.json"


@dataclass(frozen=True)
class ClassTable:
    """Label of each class folder, and the class names by label."""

    labels: Mapping[str, int]
    names: tuple[str, ...]


@dataclass(frozen=True)
class Subset:
    """As many training images of each class, drawn by ``seed``: a small training set that anybody can draw again."""

    per_class: int
    seed: int = 0


def imagefolder_sources(root: Path, split: Split | None, subset: Subset | None = None) -> list[FileSource]:
    """The splits of an ImageFolder tree: those in ``root/train`` and ``root/val``, or ``root`` itself as ``split``.

    The classes are those of the training split, named by ``root/classes.json`` where it exists. Without ``split``, a tree
    called val or validation is that, any other is train. ``subset`` thins out the training split and leaves a validation
    split whole. Raises UserError.
    """
    found: dict[Split, Path] = {}
    for name, words in SPLIT_NAMES.items():
        folder = next((root / word for word in words if (root / word).is_dir()), None)
        if folder is not None:
            found[name] = folder
    if not found:
        found[split or ("val" if root.name in SPLIT_NAMES["val"] else "train")] = root
    elif split is not None:
        found = {name: folder for name, folder in found.items() if name == split}
        if not found:
            raise UserError(f"{root} has no {split} split")
    folders = class_folders(found.get("train", next(iter(found.values()))))
    table = read_class_table(folders, root / CLASSES_NAME)
    return [
        _split_source(folder, name, table, subset if name == "train" else None) for name, folder in found.items()
    ]


def read_class_table(folders: Sequence[str], classes_file: Path) -> ClassTable:
    """Labels 0, 1, ... of the class folders in alphabetical order, as every ImageFolder reader has them.

    ``classes_file``, where it exists, is JSON with a name for each folder, or ``{"name": ..., "index": LABEL}`` for
    folders that have labels in a larger set of classes. Raises UserError.
    """
    folders = sorted(folders)
    default = ClassTable({folder: label for label, folder in enumerate(folders)}, tuple(folders))
    if not classes_file.is_file():
        return default
    try:
        table = json.loads(read_bytes(classes_file))
        entries = {folder: table[folder] for folder in folders}
        if all(isinstance(entry, str) for entry in entries.values()):
            return ClassTable(default.labels, tuple(entries.values()))
        labels = {folder: int(entry["index"]) for folder, entry in entries.items()}
        names = {int(entry["index"]): str(entry["name"]) for entry in table.values()}
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{classes_file} does not name every class folder ({error!r}); complete or remove it") from None
    if len(set(labels.values())) != len(labels) or min(labels.values()) < 0:
        raise UserError(f"{classes_file} gives two class folders the same index, or a negative one")
    return ClassTable(labels, tuple(names.get(label, f"class {label}") for label in range(max(names) + 1)))


def class_folders(root: Path) -> list[str]:
    """Names of the class folders in ``root``, sorted; hidden ones are none. Raises UserError if there are none."""
    try:
        found = sorted(entry.name for entry in os.scandir(root) if entry.is_dir() and not entry.name.startswith("."))
    except OSError as error:
        raise UserError(f"cannot read {root}: {error.strerror}") from None
    if not found:
        raise UserError(
            f"{root} has no class folders; expected {root}/CLASS/IMAGE.jpg, or train/ and val/ with such folders"
        )
    return found


def _split_source(root: Path, split: Split, table: ClassTable, subset: Subset | None) -> FileSource:
    found: list[tuple[str, int]] = []
    ignored: list[str] = []
    for folder in class_folders(root):
        if folder not in table.labels:
            raise UserError(f"class folder {root / folder} is not among the {len(table.labels)} training classes")
        for path in _files_below(root, folder):
            if path.rpartition(".")[2].lower() in IMAGE_EXTENSIONS:
                found.append((path, table.labels[folder]))
            else:
                ignored.append(path)
    if ignored:
        print(
            f"{root}: left out {len(ignored)} files that are no images by name, such as {ignored[0]}", file=sys.stderr
        )
    if not found:
        raise UserError(f"no images in the class folders of {root} ({', '.join(IMAGE_EXTENSIONS)})")
    if subset is not None:
        found = _thinned(found, subset, root)
    keys = unique_keys([path for path, _ in found])
    samples = [
        FileSample(key, {member_extension(path): path}, label) for key, (path, label) in zip(keys, found, strict=True)
    ]
    return FileSource("imagefolder", root, split, samples, table.names)


def _thinned(found: Sequence[tuple[str, int]], subset: Subset, root: Path) -> list[tuple[str, int]]:
    """``subset.per_class`` of the (path, label) pairs of each label, in their order."""
    chosen: list[int] = []
    for label in sorted({label for _, label in found}):
        members = [number for number, (_, its) in enumerate(found) if its == label]
        if len(members) < subset.per_class:
            raise UserError(
                f"{root}: a class has only {len(members)} images ({found[members[0]][0]} ...); "
                f"ask for at most so many of each"
            )
        order = keyed_permutation(len(members), subset.seed, "subset", label)
        chosen += [members[place] for place in order[: subset.per_class]]
    return [found[number] for number in sorted(chosen)]


def _files_below(root: Path, folder: str) -> Iterator[str]:
    """Paths of the files below ``root/folder`` relative to ``root``, with "/", sorted; hidden ones are left out."""
    for current, folders, files in os.walk(root / folder, followlinks=True):
        folders.sort()
        for name in sorted(files):
            if not name.startswith("."):
                yield Path(current, name).relative_to(root).as_posix()
