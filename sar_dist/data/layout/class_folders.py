"""How classes are recognised in a tree of folders.

- A class is a folder that holds images, itself or in folders below it. Hidden folders, what other programs leave behind
  (``@eaDir``, ``__MACOSX``) and folders without any image are no classes; they are left out and counted, as are images and
  archives that lie beside the class folders, and images that are called like maps of others (``a_mask.png`` beside ``a.png``).
- A class that is there as an archive alone is refused: without it the set would be another one.
- A tree whose folders are something else is refused: a level above the classes (``2019/cats``, ``2019/dogs``), splits, a copy
  of the set, ``images`` beside ``masks``. ``no_classes`` has these rules.
- Names that look the same are the same class. Two folders that look the same, are the same number (1 and 01), or are the
  same through a link, are refused.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from sar_dist.data.layout.archives import archive_of_a_class
from sar_dist.data.layout.classes import class_word, sort_classes
from sar_dist.data.layout.doubtful_names import refuse_downloaded_chunks, remarks_on_names
from sar_dist.data.layout.formats import (
    IMAGE_EXTENSIONS,
    is_archive_name,
    is_container_name,
    is_image_name,
    is_left_over,
    is_unread_image,
)
from sar_dist.data.layout.lost_classes import refuse_folders_in_names, refuse_unread
from sar_dist.data.layout.maps import maps_by_name
from sar_dist.data.layout.no_classes import how_lists_are_read, refuse_what_is_no_class
from sar_dist.errors import UserError

FolderIdentity = tuple[int, int]
ClassDepth = int | Literal["any"]


class ClassFolder(NamedTuple):
    """A folder in a tree of classes: its images, maps of these by their names, other files, and hidden ones and leftovers.

    ``name`` is its name as a ``class_word``; paths are below the tree's root, with "/", sorted.
    """

    name: str
    images: tuple[str, ...]
    maps: tuple[str, ...]
    ignored: tuple[str, ...]
    left_over: tuple[str, ...]


class ClassTree(NamedTuple):
    """Class folders in the order of their labels, folders that are none, images and archives beside or above them, by name.

    ``remarks`` are what there is to say about the classes.
    """

    classes: list[ClassFolder]
    no_classes: list[str]
    beside: list[str]
    remarks: list[str]

    def left_out(self) -> list[str]:
        """What was left out, a line for each kind."""
        ignored = [path for folder in self.classes for path in folder.ignored]
        unread = [path for path in ignored if is_unread_image(path)]
        kinds = (
            (self.no_classes, "folders that are no classes (hidden or no images)"),
            (
                [name for name in self.beside if not is_container_name(name)],
                "images or archives beside the class folders, which are of no class",
            ),
            (
                [name for name in self.beside if is_container_name(name)],
                "files beside the class folders that may hold images and are not read; save the images of a class in a folder of its name",
            ),
            (
                [path for folder in self.classes for path in folder.maps],
                "images that are called like maps of others (masks, ground truth); rename what is an image of its class",
            ),
            (unread, "images in formats that are not read; convert them to JPEG or PNG"),
            ([path for path in ignored if not is_unread_image(path)], "files that are no images by name"),
            (
                [path for folder in self.classes for path in folder.left_over],
                "hidden files and leftovers of other programs",
            ),
        )
        return [f"left out {len(paths)} {what}, such as {paths[0]}" for paths, what in kinds if paths]


def class_folders(root: Path, depth: ClassDepth | None = None) -> ClassTree:
    """What is in the folder ``root``, whose folders are the classes, or those ``depth`` levels below it.

    With ``depth`` "any", every folder that holds images itself is a class, named by its path.

    Raises:
        UserError: it cannot be read, has no class, or what looks like classes is something else.
    """
    names, beside = _listed_at(root, depth if isinstance(depth, int) else 1)
    official = any("ILSVRC2012" in name for name in beside)
    loose = [name for name in beside if not is_container_name(name)]
    lost = f" but {len(loose)} images or archives of no class, such as {loose[0]}" if loose else ""
    expected = (
        f"expected {root}/CLASS/IMAGE.jpg, or train/ and val/ with such folders; archives must be unpacked, and "
        "`make_shards.py csv` takes a table of images and labels"
        + (", `make_shards.py imagenet` ImageNet-1k as it is downloaded" if official else "")
        + how_lists_are_read(root)
    )
    if all(map(_is_left_over_path, names)):
        refuse_folders_in_names(root, beside)
        raise UserError(f"{root} has no class folders{lost}; {expected}")
    reader = _FolderReader(root)
    found = {name: reader.read(name) for name in names if not _is_left_over_path(name)}
    if depth == "any":
        found = _by_folder(found)
    with_images = [name for name, folder in found.items() if folder.images]
    without = [folder for folder in found.values() if not folder.images]
    for folder in found.values():
        refuse_folders_in_names(root, folder.images or folder.ignored)
    for folder in without:
        refuse_unread(root, folder.ignored)
    if not with_images:
        raise UserError(f"no images in the class folders of {root} ({', '.join(IMAGE_EXTENSIONS)}){lost}; {expected}")
    _refuse_archives(root, with_images, beside, without)
    _refuse_doubles(root, with_images)
    classes = {found[name].name: found[name] for name in with_images}
    taken = {*with_images, *(name.partition("/")[0] for name in with_images if depth == "any")}
    images = {name: found[name].images for name in with_images}
    if depth is None:
        refuse_downloaded_chunks(root, images, {name: found[name].ignored for name in with_images})
    remarks = refuse_what_is_no_class(root, images, depth_given=depth is not None) + remarks_on_names([*images])
    return ClassTree(
        [classes[name] for name in sort_classes([*classes])],
        [name for name in dict.fromkeys([*names, *found]) if name not in taken],
        beside,
        remarks,
    )


def _listed_at(root: Path, depth: int) -> tuple[list[str], list[str]]:
    """Paths of the folders ``depth`` levels below ``root``, leftovers without what is in them, and of images and archives above."""
    names, beside = _listed(root)
    for _ in range(1, depth):
        left_over = [name for name in names if _is_left_over_path(name)]
        inside = {name: _listed(root / name) for name in names if name not in left_over}
        names = left_over + [f"{name}/{folder}" for name, (folders, _) in inside.items() for folder in folders]
        beside += [f"{name}/{file}" for name, (_, files) in inside.items() for file in files]
    return sorted(names), beside


def _by_folder(found: Mapping[str, ClassFolder]) -> dict[str, ClassFolder]:
    """The folders that hold files themselves, by their paths, instead of the ones that they are in.

    Leftovers are those of the first of them: they lie in folders of their own.
    """
    folders: dict[str, ClassFolder] = {}
    for top, whole in found.items():
        inside = sorted({path.rpartition("/")[0] for path in (*whole.images, *whole.maps, *whole.ignored)} or {top})
        for folder in inside:
            images, maps, ignored = (
                tuple(path for path in paths if path.rpartition("/")[0] == folder)
                for paths in (whole.images, whole.maps, whole.ignored)
            )
            left_over = whole.left_over if folder == inside[0] else ()
            folders[folder] = ClassFolder(class_word(folder), images, maps, ignored, left_over)
    return folders


def _is_left_over_path(path: str) -> bool:
    return is_left_over(path.rpartition("/")[2])


def _listed(root: Path) -> tuple[list[str], list[str]]:
    """Names of the folders in ``root``, and of the images, archives and other files of many images there; sorted."""
    try:
        with os.scandir(root) as entries:
            found = sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise UserError(f"cannot read {root}: {error.strerror}") from None
    for entry in found:
        if entry.is_symlink() and not os.path.exists(entry.path) and not is_left_over(entry.name):
            raise UserError(f"{entry.path} is a link to nothing; restore or remove it")
    folders = [entry.name for entry in found if entry.is_dir()]
    files = [entry.name for entry in found if not entry.is_dir() and not is_left_over(entry.name)]
    return folders, [
        name
        for name in files
        if is_image_name(name) or is_unread_image(name) or is_archive_name(name) or is_container_name(name)
    ]


def _refuse_archives(root: Path, classes: Sequence[str], beside: Sequence[str], without: Sequence[ClassFolder]) -> None:
    """Raise UserError for an archive beside the ``classes``, or in a folder without images, that is a class as it seems."""
    found = archive_of_a_class(root, beside, classes)
    for folder in without:
        found = found or archive_of_a_class(root, folder.ignored, classes, inside=True)
    if found is not None:
        raise UserError(
            f"{root / found} looks like a class that is not unpacked, beside {len(classes)} that are, such as {classes[0]}; "
            "unpack it, or move it away if it is none"
        )


def _refuse_doubles(root: Path, names: Sequence[str]) -> None:
    """Raise UserError where two class folders would be one class: names that look the same, or are the same number."""
    taken: dict[str, str] = {}
    for name in names:
        word = class_word(name)
        other = taken.setdefault(str(int(word)) if word.isascii() and word.isdecimal() else word, name)
        if other != name:
            raise UserError(
                f"the class folders {other!a} and {name!a} in {root} look the same; put their images into one of them"
            )


class _FolderReader:
    """Reads the class folders of a tree; each folder of the disk may belong to one of them, whatever links there are."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._seen: dict[FolderIdentity, str] = {}

    def read(self, name: str) -> ClassFolder:
        """The class folder ``name``. Links are followed, but not in a circle. Raises UserError."""
        images: list[str] = []
        ignored: list[str] = []
        left_over: list[str] = []
        top = os.stat(self._root)
        todo: list[tuple[str, frozenset[FolderIdentity]]] = [(name, frozenset({(top.st_dev, top.st_ino)}))]
        while todo:
            folder, above = todo.pop()
            found = self._entries(folder, above)
            if found is None:
                continue
            inside, entries = found
            for entry in entries:
                path = f"{folder}/{entry.name}"
                if is_left_over(entry.name):
                    left_over.append(path)
                elif entry.is_dir():
                    todo.append((path, inside))
                elif is_image_name(entry.name) and (entry.is_file() or entry.is_symlink()):
                    images.append(path)  # a link to nothing is found out when its size is asked for
                else:
                    ignored.append(path)
        maps = maps_by_name(sorted(images))
        images = sorted({*images} - {*maps})
        return ClassFolder(
            class_word(name), tuple(images), tuple(maps), tuple(sorted(ignored)), tuple(sorted(left_over))
        )

    def _entries(
        self, folder: str, above: frozenset[FolderIdentity]
    ) -> tuple[frozenset[FolderIdentity], list[os.DirEntry[str]]] | None:
        """The entries of a folder, and which folders those below it are in; None where it is one of those above it."""
        try:
            state = os.stat(f"{self._root}/{folder}")
            identity = (state.st_dev, state.st_ino)
            if identity in above:
                return None
            with os.scandir(f"{self._root}/{folder}") as entries:
                found = list(entries)
        except OSError as error:
            raise UserError(f"cannot read {self._root / folder}: {error.strerror}") from None
        other = self._seen.setdefault(identity, folder)
        if other != folder:
            raise UserError(
                f"{other} and {folder} in {self._root} are the same folder, through a link; remove one of them"
            )
        return above | {identity}, found
