"""How a split is recognised by the names of folders, files and table entries.

- A *folder* is a split folder if its whole name is a split word, capitals or not: ``train``, ``Val``. A class called
  ``bullet_train`` is none.
- A *file* belongs to the split of which a word occurs in its name as a whole word: letters that follow each other, a new
  word beginning at a capital. ``medieval-train-000.tar`` and ``ImageNetTrain_0.tar`` are training shards. Where its name
  says nothing, the folders on its path do, the innermost first.
- A file that fits two splits, or none while others fit one, is refused. Test splits are known, and used only on request.
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from sar_dist.data.layout.formats import is_archive_name
from sar_dist.data.layout.hidden_splits import hidden_splits, kind_of_file, refuse_hidden_splits
from sar_dist.errors import UserError

Split = Literal["train", "val"]
SPLIT_NAMES: dict[Split, tuple[str, ...]] = {"train": ("train", "training"), "val": ("val", "validation", "valid")}
_TEST_WORDS = ("test", "testing")
_SPLIT_OF_WORD: dict[str, str] = {
    word: split for split, words in SPLIT_NAMES.items() for word in words
} | dict.fromkeys(_TEST_WORDS, "test")
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
# What the folders of splits are called besides: by the size of their images, say.
ADDED_TO_SPLITS = frozenset(
    {"large", "small", "full", "mini", "tiny", "standard", "images", "image", "imgs", "img", "set", "data"}
)
_SEPARATORS = "0123456789_-. "
_SHOWN = 3


class SplitChoice(NamedTuple):
    """Which split of a source to make (``wanted``), and what the source calls it, such as ``test`` made as val."""

    source: str
    wanted: Split


def parse_split_choice(text: str) -> SplitChoice:
    """``train``, ``val``, or ``NAME=val``: the source's split NAME is made as val. Raises UserError."""
    source, _, wanted = text.rpartition("=")
    split = split_of_word(wanted)
    if split not in SPLIT_NAMES or "=" in source or "," in source:
        raise UserError(
            f"--split {text}: give train, val, or NAME=train or NAME=val for one split of another name, such as test=val"
        )
    return SplitChoice(split_of_word(source) or source.strip().lower() or split, split)  # type: ignore[arg-type]


def chosen_split(split: Split | SplitChoice | None) -> SplitChoice | None:
    """``split`` as a choice: a split's own name asks for what the source calls so."""
    return SplitChoice(split, split) if isinstance(split, str) else split


def split_of_word(word: str) -> str | None:
    """``train``, ``val`` or ``test`` for a folder's name or a table's entry that is a split word; None: it is none."""
    return _SPLIT_OF_WORD.get(word.strip().lower())


def words_of(name: str) -> list[str]:
    """The words of a name, in lower case: letters that follow each other, a new word beginning at a capital."""
    return [word.lower() for word in _WORD.findall(name)]


def extends_split(name: str) -> bool:
    """Whether a folder is called by a split word and what sets add to it, such as train2017, val_large or test_images."""
    words = words_of(name)
    rest = _WORD.sub("", name)
    return (
        split_of_word(name) is None
        and any(word in _SPLIT_OF_WORD for word in words)
        and all(word in _SPLIT_OF_WORD or word in ADDED_TO_SPLITS for word in words)
        and not rest.strip(_SEPARATORS)
    )


def split_of_folder(folder: Path) -> str | None:
    """As ``split_of_word``, of a folder's name as it was given: a link called val is val, wherever it leads."""
    return split_of_word(Path(os.path.abspath(folder)).name)


def splits_by_name(names: Sequence[str], where: str, chosen: str | None = None) -> dict[str, list[str]]:
    """File names (paths with "/" below ``where``) by the split that they name: train, val, test; sorted.

    Empty if none of them names one: then they are of whatever split is asked for. ``chosen`` is the source's word for the split
    that is asked for, such as eval: where files name other splits, those that name it are of it.

    Raises:
        UserError: a name fits two splits, or one names none while others do; or names are those of splits in words that are
            no such.
    """
    found: dict[str, list[str]] = {}
    double: list[str] = []
    silent: list[str] = []
    for name in sorted(names):
        splits = splits_of_path(name)
        if chosen is not None and not splits and _names_word(name, chosen):
            splits = {chosen}
        if len(splits) > 1:
            double.append(name)
        elif not splits:
            silent.append(name)
        else:
            found.setdefault(next(iter(splits)), []).append(name)
    if double:
        raise UserError(
            f"{_list(double)} in {where} could be of two splits by name; rename, or put each split in a folder of its own"
        )
    hidden = hidden_splits(names) if {*found} == {chosen} else {}
    if hidden and all(kind_of_file(name) in hidden for name in silent):
        for name in silent:
            found.setdefault(hidden[kind_of_file(name)], []).append(name)
    elif found and silent:
        raise UserError(
            f"{_list(silent)} in {where} name no split, but others do, such as {next(iter(found.values()))[0]}; "
            "rename or move them, or put each split in a folder of its own"
        )
    if not found:
        refuse_hidden_splits(silent, where)
    return found


def _names_word(path: str, word: str) -> bool:
    """Whether a part of a path has the words of ``word`` behind each other, or is it but for capitals."""
    wanted = words_of(word)
    for part in path.split("/"):
        words = words_of(part)
        starts = range(len(words) - len(wanted) + 1) if wanted else ()
        if part.lower() == word or any(words[start : start + len(wanted)] == wanted for start in starts):
            return True
    return False


def splits_of_path(path: str) -> set[str]:
    """The splits that a path may be of: what its innermost part that names one says, and what contradicts it."""
    decided: set[str] = set()
    for part in reversed(path.split("/")):
        splits = {_SPLIT_OF_WORD[word] for word in words_of(part) if word in _SPLIT_OF_WORD}
        if not decided:
            decided = splits
        elif len(splits) == 1:  # "train-test-split/val-0.tar" names several: it says nothing about one file
            decided = decided | splits
    return decided


def split_folders(root: Path) -> dict[str, Path]:
    """The split folders in ``root``: train, val, test, as far as they are there.

    Raises:
        UserError: two folders are the same split, such as val and validation, or two splits the same folder.
    """
    found: dict[str, list[Path]] = {}
    try:
        with os.scandir(root) as entries:
            named = sorted((entry for entry in entries if split_of_word(entry.name)), key=lambda entry: entry.name)
    except NotADirectoryError:
        remedy = "unpack it, and give its folder" if is_archive_name(root.name) else "give the folder that it lies in"
        raise UserError(f"{root} is a file, and no folder; {remedy}") from None
    except OSError as error:
        raise UserError(f"cannot read {root}: {error.strerror}") from None
    for entry in named:
        if entry.is_symlink() and not os.path.exists(entry.path):
            raise UserError(f"{entry.path} is a link to nothing; restore or remove it")
        if entry.is_dir():
            found.setdefault(split_of_word(entry.name) or entry.name, []).append(root / entry.name)
    folders = _single(root, found)
    _refuse_same(root, [*folders.values()])
    return folders


def folder_called(root: Path, source: str) -> Path | None:
    """The folder in ``root`` that is called like the split ``source``, a source's own word for one, whatever its capitals.

    None: there is none.

    Raises:
        UserError: there are two.
    """
    if split_of_word(source) == source:
        return split_folders(root).get(source)
    try:
        with os.scandir(root) as entries:
            called = sorted(entry.name for entry in entries if entry.name.lower() == source and entry.is_dir())
    except OSError as error:
        raise UserError(f"cannot read {root}: {error.strerror}") from None
    if len(called) > 1:
        raise UserError(f"{root} holds the {source} split twice, in {' and '.join(called)}; move one of them away")
    return root / called[0] if called else None


def _refuse_same(root: Path, folders: Sequence[Path]) -> None:
    """Raise UserError where two splits are one folder: a model would be measured on what it was trained on."""
    for one, other in itertools.combinations(folders, 2):
        if one.samefile(other):
            raise UserError(
                f"{one.name} and {other.name} in {root} are the same folder, through a link; remove one of them"
            )


def _single(root: Path, found: Mapping[str, Sequence[Path]]) -> dict[str, Path]:
    for split, folders in found.items():
        if len(folders) > 1:
            names = " and ".join(folder.name for folder in folders)
            raise UserError(f"{root} holds the {split} split twice, in {names}; move one of them away")
    return {split: folders[0] for split, folders in found.items()}


def _list(names: Sequence[str]) -> str:
    """The first of ``names``, and how many more there are."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{', '.join(names[:_SHOWN])}{more}"
