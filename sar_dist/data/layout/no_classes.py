"""What looks like class folders and is something else: each is refused, with what to do about it.

- Splits within the classes (``cat/train``, ``dog/test``), and folders called like splits with something added (``train2017``,
  ``val_large``).
- A copy of the set beside its classes, as some archives have it: a folder that holds folders called like those beside it.
- Parts of a set's layout: ``JPEGImages``, ``annotations``, ``images`` beside ``masks``, ``images`` alone.
- A level above the classes: folders that hold no images themselves but lead to several folders of them. The user may say
  which level is that of the classes; parts of a layout are classes then, too.

What may be meant, and may be a mistake, is said: a class called like val or test, one class alone, a class of several folders,
photographs in a folder that is called like the maps of another one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from sar_dist.data.layout.classes import class_word
from sar_dist.data.layout.maps import are_classes, images_alone, parts_of_a_layout
from sar_dist.data.layout.splits import extends_split, split_of_word, splits_of_path, words_of
from sar_dist.errors import UserError

# Folders beside classes may be called so, and hold images of no class.
_OTHER_USES = frozenset({"pred", "predict", "prediction", "predictions", "unlabeled", "unlabelled", "background"})
_SHOWN = 3
# As many folders beside others that are called like splits are classes for certain.
_CLASSES = 2
_DIGITS = re.compile(r"\d+")
_WHAT_TO_DO = (
    "give the folder whose folders are the classes, or move what is none away; `make_shards.py csv` takes a table of images and labels, `voc`, "
    "`ade20k` and `tiny_imagenet` sets of their layouts; rename a folder that is a class"
)


class _Folders(NamedTuple):
    """The class folders and those in them, by paths: ``holding`` images themselves; in ``within``, names of those that lead on."""

    names: list[str]
    holding: set[str]
    within: dict[str, set[str]]

    @classmethod
    def of(cls, images: Mapping[str, Sequence[str]]) -> _Folders:
        """Those of ``images``, paths by the class folder."""
        holding = {path.rpartition("/")[0] for paths in images.values() for path in paths}
        within: dict[str, set[str]] = {}
        for folder in sorted(holding):
            while "/" in folder:
                folder, _, name = folder.rpartition("/")
                within.setdefault(folder, set()).add(name)
        return cls([*images], holding, dict(sorted(within.items())))

    def branching(self, folder: str) -> str | None:
        """The folder at or below one where paths part, while none holds images itself; None: they never part."""
        while folder not in self.holding:
            inside = self.within[folder]
            if len(inside) > 1:
                return folder
            folder = f"{folder}/{next(iter(inside))}"
        return None

    def branches(self, folder: str) -> int:
        """How many folders hold images where their paths part: 1 if they never do, 0 if some are in the folder itself."""
        if folder in self.holding:
            return 0
        parts = self.branching(folder)
        return 1 if parts is None else len(self.within[parts])


def refuse_what_is_no_class(root: Path, images: Mapping[str, Sequence[str]], *, depth_given: bool = False) -> list[str]:
    """Raise UserError where folders in ``root`` are not classes; else what there is to say about them.

    ``images`` are paths below ``root`` by the class folder in which they are. With ``depth_given`` the user has said on which
    level the classes are.
    """
    try:
        return _look_at(root, images, depth_given=depth_given)
    except UserError as error:
        raise UserError(f"{error}{how_lists_are_read(root)}") from None


def how_lists_are_read(root: Path) -> str:
    """What to say of a folder that is no set of classes where lists of images lie in it, or beside it, as iNaturalist has them."""
    lists = sorted([*root.glob("train*.json"), *root.parent.glob("train*.json")])
    return f"; `make_shards.py inaturalist {lists[0].parent} OUT` reads lists such as {lists[0]}" if lists else ""


def _look_at(root: Path, images: Mapping[str, Sequence[str]], *, depth_given: bool) -> list[str]:
    folders = _Folders.of(images)
    _refuse_splits_within(root, folders)
    _refuse_called_like_splits(root, folders, depth_given=depth_given)
    copies = _copies(folders)
    _refuse_copies(root, copies, len(folders.names))
    parts = _parts_of_a_layout(root, images, depth_given=depth_given)
    _refuse_maps_within(root, folders)
    branching = {name: count for name in folders.names if (count := folders.branches(name)) > 1}
    if not depth_given:
        _refuse_level_above(root, folders, branching, images)
    if images_alone(folders.names):
        raise UserError(
            f"{_of(root, folders.names)} are called like images of all classes, and are none; {_WHAT_TO_DO}"
        )
    return _remarks(folders, branching, copies) + parts


def _remarks(folders: _Folders, branching: Mapping[str, int], copies: Mapping[str, Sequence[str]]) -> list[str]:
    """What there is to say about folders that are taken for classes and may be none."""
    said: list[str] = []
    if len(folders.names) == 1:
        said.append(
            f"there is one class alone, {folders.names[0]}; if it is none, give the folder whose folders are the classes"
        )
    unlike = [
        name
        for name in folders.names
        if splits_of_path(name) & {"val", "test"} or not _OTHER_USES.isdisjoint(words_of(name))
    ]
    if unlike:
        said.append(
            f"{len(unlike)} folders called like other parts of a set are taken for classes ({_list(unlike)}); move them away "
            "if they are none"
        )
    if branching and len(branching) < len(folders.names):
        name, count = next(iter(branching.items()))
        more = f", as are those of {len(branching) - 1} other folders" if len(branching) > 1 else ""
        said.append(
            f"{name} holds {count} folders of images, all taken for the class {name}{more} (--class-depth any makes a class of each)"
        )
    said += _doubtful_folders(folders)
    copied = [folder for folder in copies if folder.partition("/")[0] not in branching]
    if copied:
        said.append(
            f"{copied[0]} holds {_list(copies[copied[0]])}, called like classes beside it, which are taken for the class "
            f"{copied[0].partition('/')[0]}"
        )
    return said


def _doubtful_folders(folders: _Folders) -> list[str]:
    """What there is to say about images on two levels of a class, as of crops, and about classes that may be single videos."""
    said: list[str] = []
    mixed = [folder for folder in folders.within if folder in folders.holding and folder not in folders.names]
    mixed += [name for name in folders.names if name in folders.holding and name in folders.within]
    if mixed and folders.holding != {*folders.names}:  # else each of them is a class of its own
        folder = mixed[0]
        more = f", as in {len(mixed) - 1} other folders" if len(mixed) > 1 else ""
        said.append(
            f"{folder} holds images itself and in folders ({_list(sorted(folders.within[folder]))}), all taken for one class"
            f"{more}; move away what are crops or copies"
        )
    words = {_DIGITS.sub("", name) for name in folders.names}
    if 1 < len(words) <= len(folders.names) / 2:
        alike = sorted(name for name in folders.names if _DIGITS.sub("", name) == max(words, key=len))
        said.append(
            f"the {len(folders.names)} classes are called by {len(words)} names with numbers, such as {_list(alike)}; if they are videos "
            "or parts of classes, put those of one class into a folder, and give --class-depth 1"
        )
    return said


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
        give = root / folder if len(folders.names) == 1 else "the folder that holds the splits"
        raise UserError(
            f"{root / folder} holds {what} above the classes: make {' and '.join(f'{split}/CLASS' for split in splits)} of it, "
            f"or give {give}; rename what is no split"
        )


def _refuse_called_like_splits(root: Path, folders: _Folders, *, depth_given: bool) -> None:
    """Raise UserError for folders that are splits by their names; the folders in ``root`` may be called so if the user says so."""
    names = folders.names
    named = [name for name in names if splits_of_path(name)]
    if len(names) == 1 and named:
        raise UserError(
            f"{root} holds {names[0]} alone, which is called like a split: give {root / names[0]}, or move its folders up one level"
            if names[0] in folders.within
            else f"{root / names[0]} is called like a split, and no class; {_WHAT_TO_DO}"
        )
    # Several folders of images in one are its classes, whatever the user says of the level above.
    may_be_classes = all("/" not in name and folders.branches(name) < 2 for name in named)
    if not (depth_given and may_be_classes) and (any(map(extends_split, names)) or _are_a_layout(names, named)):
        or_say = f", or say that all folders in {root} are classes, with --class-depth 1" if may_be_classes else ""
        raise UserError(
            f"{_of(root, named)} are called like splits, and are no classes; rename them to train and val, or give one of "
            f"them alone; rename what is a class to something else{or_say}"
        )


def _are_a_layout(names: Sequence[str], named: Sequence[str]) -> bool:
    """Whether the folders ``named`` among ``names`` are splits, as seg_train and seg_test, and not all classes, as test tubes.

    Beside two classes and more, one of val and one of test are said; training images beside them make it a layout. Where such
    folders differ in more than the split, and others lie beside them, they are classes.
    """
    splits: dict[str, set[str]] = {}
    for name in named:
        rest = " ".join(word for word in words_of(name) if split_of_word(word) is None)
        splits.setdefault(rest, set()).update(splits_of_path(name))
    found = set().union(*splits.values())
    others = len(names) - len(named)
    if len(found) < 2 or 2 * len(named) < len(names) or ("train" not in found and others >= _CLASSES):
        return False
    return others < _CLASSES or any(len(alike) > 1 for alike in splits.values())


def _copies(folders: _Folders) -> dict[str, list[str]]:
    """Folders in a class that are called like the other classes, capitals or not, by the folder that they are in.

    Where most of the class folders hold such folders, it is how each class is arranged, by numbers perhaps: none.
    """
    words = {class_word(name).casefold() for name in folders.names}
    found: dict[str, list[str]] = {}
    for folder, names in folders.within.items():
        others = words - {class_word(folder.partition("/")[0]).casefold()}
        if repeated := sorted(name for name in names if class_word(name).casefold() in others):
            found[folder] = repeated
    tops = {folder.partition("/")[0] for folder in found}
    return found if 2 * len(tops) <= len(folders.names) else {}


def _refuse_copies(root: Path, copies: Mapping[str, Sequence[str]], classes: int) -> None:
    for folder, repeated in copies.items():
        if len(repeated) >= min(2, classes - 1):
            raise UserError(
                f"{root / folder.partition('/')[0]} holds folders that are called like the classes beside it, such as "
                f"{folder}/{repeated[0]}, as a copy of the set does; move it away, or rename the folders in it if it is a class"
            )


def _parts_of_a_layout(root: Path, images: Mapping[str, Sequence[str]], *, depth_given: bool) -> list[str]:
    """What there is to say about folders called like parts of a layout that are classes all the same.

    Raises:
        UserError: they are none, as far as can be told, and the user has not said that they are.
    """
    own = {name: name.rpartition("/")[2] for name in images}  # of several levels, the last one is the class
    pictures, maps = parts_of_a_layout([*dict.fromkeys(own.values())])
    if not maps:
        return []
    found = [name for name in images if own[name] in pictures or own[name] in maps]
    paths = {
        kind: [path for name in found if own[name] in kind for path in images[name]]
        for kind in (tuple(pictures), tuple(maps))
    }
    if depth_given or are_classes(root, pictures, paths[tuple(pictures)], paths[tuple(maps)]):
        return [
            f"{_list(found)} are taken for classes, and are called like images and maps of them; move away what is no class"
        ]
    raise UserError(
        f"{_of(root, found)} are parts of a set by name, and no classes; {_WHAT_TO_DO}, or say that all folders in {root} are classes, "
        "with --class-depth 1"
    )


def _refuse_maps_within(root: Path, folders: _Folders) -> None:
    for folder, names in folders.within.items():
        _, maps = parts_of_a_layout(sorted(names), beside_images=folder in folders.holding)
        if maps:
            raise UserError(
                f"{root / folder / maps[0]} holds labels or maps of other images by its name, and its images would be of the class "
                f"{folder.partition('/')[0]}; move it away, or rename it"
            )


def _refuse_level_above(
    root: Path, folders: _Folders, branching: Mapping[str, int], images: Mapping[str, Sequence[str]]
) -> None:
    """Raise UserError where no folder holds images itself, or such alone as are called like splits, and some lead to several."""
    direct = [name for name in folders.names if folders.branches(name) == 0]
    if branching and all(map(splits_of_path, direct)):
        first = next(iter(branching))
        if len(folders.names) == 1:
            inner = folders.branching(first) or first
            raise UserError(
                f"{first} alone is in {root}, and is no class: folders of images, such as {images[first][0]}, are further down; give "
                f"{root / inner}, or say with --class-depth which folders are the classes"
            )
        raise UserError(
            f"{_of(root, folders.names)} are no classes: {first} holds no images itself but folders of them, such as "
            f"{images[first][0]}; give the folder whose folders are the classes. Where there is none, say which they are: "
            f"--class-depth 1, the folders in {root}, whatever is below them; --class-depth 2, those in these; --class-depth any, each "
            "that holds images, on whatever level. `make_shards.py csv` takes a table of images and labels"
        )


def _of(root: Path, names: Sequence[str]) -> str:
    return f"the folders in {root} ({', '.join(names[:_SHOWN])})"


def _list(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
