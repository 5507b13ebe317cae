"""What looks like class folders and is something else: each is refused, with what to do about it.

- Splits within the classes (``cat/train``, ``dog/test``), and folders called like splits with something added (``train2017``,
  ``val_large``).
- A copy of the set beside its classes, as some archives have it: a folder that holds folders called like those beside it.
- Parts of a set's layout: ``JPEGImages``, ``annotations``, ``images`` beside ``masks``, ``images`` alone.
- A level above the classes: folders that hold no images themselves but lead to several folders of them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from sar_dist.data.layout.classes import class_word
from sar_dist.data.layout.formats import IMAGE_EXTENSIONS
from sar_dist.data.layout.splits import extends_split, split_of_word, splits_of_path
from sar_dist.errors import UserError

# Folders by the part that they have in a set's layout, in lower case and without digits and separators. A class may be called
# "mask", but beside "images" it is none.
_IMAGES = frozenset({"images", "image", "imgs", "img", "photos", "pictures", *IMAGE_EXTENSIONS})
_MAPS = frozenset({"masks", "mask", "labels", "label", "gt"})
_NEVER_CLASSES = frozenset(
    {"annotations", "annotation", "groundtruth", "imagesets", "jpegimages", "segmentationclass", "segmentationclassaug"}
    | {"segmentationobject", "segmentations", "trimaps"}
)
# What the maps of an image in the same folder are called: its own name with a word for them.
_MAP_OF = re.compile(r"(?P<image>.+)[ _.-](?:masks?|gt|seg|segmentation|labels?)(?:[ _-]?\d+)?")
_NO_LETTER = re.compile(r"[\W\d_]+")
_WHAT_TO_DO = (
    "give the folder whose folders are the classes, or move what is none away; `make_shards.py csv` takes a table of images and labels, `voc`, "
    "`ade20k` and `tiny_imagenet` sets of their layouts; rename a folder that is a class"
)


def maps_by_name(images: Sequence[str]) -> list[str]:
    """Those of the ``images`` (paths) that are called like a map of another one, such as a_mask.png beside a.png."""
    stems = {path.rpartition(".")[0] for path in images}
    return [
        path for path in images if (found := _MAP_OF.fullmatch(path.rpartition(".")[0])) and found["image"] in stems
    ]


class _Folders(NamedTuple):
    """The class folders and those in them, by paths: ``holding`` images themselves; in ``within``, names of those that lead on."""

    names: list[str]
    holding: set[str]
    within: dict[str, set[str]]

    def branches(self, folder: str) -> int:
        """How many folders hold images where their paths part: 1 if they never do, 0 if some are in the folder itself."""
        if folder in self.holding:
            return 0
        while (
            len(inside := self.within[folder]) == 1 and (only := f"{folder}/{next(iter(inside))}") not in self.holding
        ):
            folder = only
        return len(inside)


def refuse_what_is_no_class(root: Path, images: Mapping[str, Sequence[str]]) -> None:
    """Raise UserError where folders in ``root`` are not classes.

    ``images`` are paths below ``root`` by the name of the folder there in which they are.
    """
    holding = {path.rpartition("/")[0] for paths in images.values() for path in paths}
    within: dict[str, set[str]] = {}
    for folder in sorted(holding):
        while "/" in folder:
            folder, _, name = folder.rpartition("/")
            within.setdefault(folder, set()).add(name)
    folders = _Folders([*images], holding, dict(sorted(within.items())))
    _refuse_splits_within(root, folders)
    _refuse_called_like_splits(root, folders.names)
    _refuse_copies(root, folders)
    _refuse_parts_of_a_layout(root, folders.names)
    _refuse_maps_within(root, folders)
    _refuse_level_above(root, folders, images)
    _refuse_images_alone(root, folders.names)


def _refuse_splits_within(root: Path, folders: _Folders) -> None:
    """A class folder may hold a folder called train alone: all of its images are training images, or it is a kind of vehicle."""
    found = {
        folder: {split for split in map(split_of_word, names) if split} for folder, names in folders.within.items()
    }
    several = {folder: sorted(splits) for folder, splits in found.items() if splits - {"train"}}
    if several:
        folder, splits = max(several.items(), key=lambda entry: len(entry[1]))
        what = (
            f"the splits {' and '.join(splits)}, which belong"
            if len(splits) > 1
            else f"the split {splits[0]}, which belongs"
        )
        raise UserError(
            f"{root / folder} holds {what} above the classes: make {' and '.join(f'{split}/CLASS' for split in splits)} of it, "
            "or give the folder that holds the splits; rename what is no split"
        )


def _refuse_called_like_splits(root: Path, names: Sequence[str]) -> None:
    named = [splits for splits in map(splits_of_path, names) if splits]
    several = len(set().union(*named)) > 1 or len(names) == 1
    if any(map(extends_split, names)) or (several and named and 2 * len(named) >= len(names)):
        raise UserError(
            f"{_of(root, names)} are called like splits, and are no classes; rename them to train and val, or what is a class "
            "to something else"
        )


def _refuse_copies(root: Path, folders: _Folders) -> None:
    """Where most of the class folders hold such folders, it is how each class is arranged, by numbers perhaps."""
    words = {class_word(name) for name in folders.names}
    copies: dict[str, str] = {}
    for folder, names in folders.within.items():
        top = folder.partition("/")[0]
        repeated = sorted(name for name in names if class_word(name) in words and class_word(name) != class_word(top))
        if repeated and len(repeated) >= min(2, len(words) - 1):
            copies.setdefault(top, f"{folder}/{repeated[0]}")
    if copies and 2 * len(copies) <= len(folders.names):
        copy, example = next(iter(copies.items()))
        raise UserError(
            f"{root / copy} holds folders that are called like the classes beside it, such as {example}, as a copy of the set "
            "does; move it away, or rename the folders in it if it is a class"
        )


def _refuse_parts_of_a_layout(root: Path, names: Sequence[str]) -> None:
    parts = {_part(name) for name in names}
    refused = _NEVER_CLASSES | (_IMAGES | _MAPS if parts & _IMAGES and parts & _MAPS else frozenset())
    found = [name for name in names if _part(name) in refused]
    if found:
        raise UserError(f"{_of(root, found)} are parts of a set by name, and no classes; {_WHAT_TO_DO}")


def _refuse_maps_within(root: Path, folders: _Folders) -> None:
    for folder, names in folders.within.items():
        parts = {_part(name): name for name in sorted(names)}
        maps = _NEVER_CLASSES | (_MAPS if folder in folders.holding or parts.keys() & _IMAGES else frozenset())
        found = next((name for part, name in parts.items() if part in maps), None)
        if found is not None:
            raise UserError(
                f"{root / folder / found} holds labels or maps of other images by its name, and its images would be of the class "
                f"{folder.partition('/')[0]}; move it away, or rename it"
            )


def _refuse_level_above(root: Path, folders: _Folders, images: Mapping[str, Sequence[str]]) -> None:
    branches = {name: folders.branches(name) for name in folders.names}
    if all(branches.values()) and max(branches.values()) > 1:
        first = next(name for name, count in branches.items() if count > 1)
        raise UserError(
            f"{_of(root, folders.names)} are no classes: {first} holds no images itself but folders of them, such as "
            f"{images[first][0]}; give the folder whose folders are the classes"
        )


def _refuse_images_alone(root: Path, names: Sequence[str]) -> None:
    """Raise UserError for ``images`` as the only folder, or ``images_001``, ``images_002`` and so on."""
    if len({_part(name) for name in names}) == 1 and _IMAGES & set(_NO_LETTER.split(names[0].lower())):
        raise UserError(f"{_of(root, names)} are called like images of all classes, and are none; {_WHAT_TO_DO}")


def _part(name: str) -> str:
    return _NO_LETTER.sub("", name.lower())


def _of(root: Path, names: Sequence[str]) -> str:
    return f"the folders in {root} ({', '.join(names[:3])})"
