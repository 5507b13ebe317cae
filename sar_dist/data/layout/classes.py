"""How classes are recognised in a tree of folders, and how they are numbered.

- A class is a folder that holds images, itself or in folders below it. Hidden folders, what other programs leave behind
  (``@eaDir``, ``__MACOSX``) and folders without any image are no classes; they are left out and counted.
- Folders that hold no images themselves but two or more folders with images each (``2019/cats``, ``2019/dogs``) are not
  classes but a level above them: such a tree is refused.
- Names that look the same are the same class: Unicode's composed and decomposed letters (which macOS writes), spaces
  around a name. Two folders that look the same, or are the same through a link, are refused.
- Classes are numbered from 0: in the order of their numbers if all folders are whole numbers, else in alphabetical order,
  as torchvision's ImageFolder does. A ``classes.json`` may say otherwise.
"""

from __future__ import annotations

import json
import os
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from sar_dist.data.layout.formats import IMAGE_EXTENSIONS, is_image_name, is_left_over
from sar_dist.errors import UserError
from sar_dist.files import read_regular

CLASSES_NAME = "classes.json"
_MOST_CLASSES = 10_000_000


def class_word(text: str) -> str:
    """A class's word in the form in which words are compared: composed letters (Unicode NFC), no spaces around."""
    return unicodedata.normalize("NFC", text).strip()


class ClassFolder(NamedTuple):
    """A folder in a tree of classes: its images (paths below the tree's root, with "/", sorted), and what is none.

    ``name`` is its name as a ``class_word``.
    """

    name: str
    images: tuple[str, ...]
    ignored: tuple[str, ...]

    @property
    def branches(self) -> int:
        """How many folders hold images: 0 if some are in the class folder itself, else its subfolders that do."""
        parts = [path.split("/") for path in self.images]
        return 0 if any(len(part) == 2 for part in parts) else len({part[1] for part in parts})


def class_folders(root: Path) -> tuple[list[ClassFolder], list[str]]:
    """The class folders in ``root`` in the order of their labels, and the names of the folders that are none.

    Raises:
        UserError: it cannot be read, has no class, or what looks like classes is a level above them.
    """
    try:
        with os.scandir(root) as entries:
            names = sorted(entry.name for entry in entries if entry.is_dir())
    except OSError as error:
        raise UserError(f"cannot read {root}: {error.strerror}") from None
    expected = f"expected {root}/CLASS/IMAGE.jpg, or train/ and val/ with such folders"
    if not any(not is_left_over(name) for name in names):
        raise UserError(f"{root} has no class folders; {expected}")
    found = {name: _read_class(root, name) for name in names if not is_left_over(name)}
    with_images = [name for name, folder in found.items() if folder.images]
    _refuse_doubles(root, with_images)
    classes = {found[name].name: found[name] for name in with_images}
    if not classes:
        raise UserError(f"no images in the class folders of {root} ({', '.join(IMAGE_EXTENSIONS)})")
    if all(folder.branches for folder in classes.values()) and any(f.branches > 1 for f in classes.values()):
        first = next(folder for folder in classes.values() if folder.branches > 1)
        raise UserError(
            f"the folders in {root} ({', '.join([*classes][:3])}) are no classes: {first.name} holds no images itself but "
            f"folders of them, such as {first.images[0]}; give the folder whose folders are the classes"
        )
    return [classes[name] for name in sort_classes([*classes])], [name for name in names if name not in with_images]


def _refuse_doubles(root: Path, names: Iterable[str]) -> None:
    """Raise UserError where two class folders would be one class: links to one folder, or names that look the same."""
    by_folder: dict[tuple[int, int], str] = {}
    by_word: dict[str, str] = {}
    for name in names:
        state = os.stat(root / name)
        other = by_folder.setdefault((state.st_dev, state.st_ino), name)
        if other != name:
            raise UserError(f"{other} and {name} in {root} are the same folder, through a link; remove one of them")
        other = by_word.setdefault(class_word(name), name)
        if other != name:
            raise UserError(
                f"the class folders {other!a} and {name!a} in {root} look the same; put their images into one of them"
            )


def _read_class(root: Path, name: str) -> ClassFolder:
    images: list[str] = []
    ignored: list[str] = []
    _walk(root, name, images, ignored, ())
    return ClassFolder(class_word(name), tuple(sorted(images)), tuple(sorted(ignored)))


def _walk(root: Path, folder: str, images: list[str], ignored: list[str], above: tuple[tuple[int, int], ...]) -> None:
    """Sort the files below ``root/folder`` into images and others. Links are followed, but not in a circle."""
    try:
        state = os.stat(root / folder)
        if (state.st_dev, state.st_ino) in above:
            return
        with os.scandir(root / folder) as entries:
            found = list(entries)
    except OSError as error:
        raise UserError(f"cannot read {root / folder}: {error.strerror}") from None
    for entry in found:
        path = f"{folder}/{entry.name}"
        if is_left_over(entry.name):
            continue
        if entry.is_dir():
            _walk(root, path, images, ignored, (*above, (state.st_dev, state.st_ino)))
        elif is_image_name(entry.name) and (entry.is_file() or entry.is_symlink()):
            images.append(path)  # a link to nothing is found out when its size is asked for
        else:
            ignored.append(path)


def sort_classes(names: Sequence[str]) -> list[str]:
    """Class names in the order of their labels: whole numbers by value if all are, else alphabetical."""
    if all(name.isascii() and name.isdecimal() for name in names):
        return sorted(names, key=lambda name: (int(name), name))
    return sorted(names)


def order_remark(names: Sequence[str]) -> str | None:
    """What to say about the order of ``names`` (sorted by ``sort_classes``) where other readers have another one."""
    natural = sorted(names, key=_natural)
    if list(names) != sorted(names):
        return (
            f"the {len(names)} class folders are numbers and labelled in their order ({', '.join(names[:3])}, ...), as by "
            f"timm's reader; torchvision's ImageFolder sorts them as words"
        )
    if list(names) != natural:
        place = next(i for i, (name, other) in enumerate(zip(names, natural, strict=True)) if name != other)
        return (
            f"the classes are labelled in alphabetical order, as by torchvision's ImageFolder: label {place} is "
            f"{names[place]}; timm's reader would give it to {natural[place]}"
        )
    return None


def _natural(name: str) -> list[tuple[int, int, str]]:
    """timm's order of names: runs of digits by value, the rest as lower-case words."""
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in re.split(r"(\d+)", name.lower())]


def named_classes(names: Sequence[str]) -> dict[int, str]:
    """Label and word of the classes in ``names``, without the places of a larger set that a subset does not name."""
    return {label: class_word(name) for label, name in enumerate(names) if name != _placeholder(label)}


def _placeholder(label: int) -> str:
    return f"class {label}"


@dataclass(frozen=True)
class ClassTable:
    """Label of each class by the word that stands for it (its folder's name, say), and the class names by label."""

    labels: Mapping[str, int]
    names: tuple[str, ...]


def read_label_words(classes_file: Path) -> ClassTable:
    """Labels of all classes that a ``classes.json`` beside shards names; see ``parse_label_words``. Raises UserError."""
    try:
        data = read_regular(classes_file)
    except OSError as error:
        raise UserError(f"cannot read {classes_file}: {error.strerror}") from None
    return parse_label_words(data, str(classes_file))


def parse_label_words(data: bytes, where: str) -> ClassTable:
    """Labels of all classes that the content of a ``classes.json`` names.

    It is a list of the words in the order of their labels, ``{word: label}``, or as ``read_class_table`` reads it.
    ``where`` is what messages call it. Raises UserError.
    """
    try:
        content = json.loads(data)
        words = [str(word) for word in content]
        named = bool(words) and not any(isinstance(word, list | dict | None) for word in content)
    except (ValueError, TypeError, RecursionError) as error:
        raise UserError(f"{where} does not name classes ({error!r}); correct or remove it") from None
    if not named:
        raise UserError(f"{where} does not name classes; correct or remove it")
    labels = {class_word(word): label for label, word in enumerate(words)}
    if isinstance(content, dict):
        if not all(_is_whole(label) for label in content.values()):
            return _class_table([*labels], content, where, whole=False)
        labels = {class_word(word): label for word, label in content.items()}
    if sorted(labels.values()) != list(range(len(words))):
        raise UserError(f"{where} does not give its {len(words)} classes the labels 0..{len(words) - 1}; correct it")
    return ClassTable(labels, tuple(sorted(labels, key=labels.__getitem__)))


def read_class_table(words: Sequence[str], classes_file: Path, *, whole: bool = False) -> ClassTable:
    """Labels 0, 1, ... of the classes in the order of ``sort_classes``.

    ``classes_file``, where it exists, is JSON with a name for each word, or ``{"name": ..., "index": LABEL}`` for
    classes that have labels in a larger set, or what ``read_label_words`` reads. With ``whole``, all its words are
    numbered, also those that are not among ``words``: the same numbers for every part of a set. Raises UserError.
    """
    if not os.path.lexists(classes_file):
        return _numbered(words)
    if not classes_file.is_file():
        raise UserError(f"{classes_file} is no file; restore or remove it")
    try:
        content = json.loads(classes_file.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"cannot read {classes_file}: {error}; correct or remove it") from None
    return _class_table(words, content, str(classes_file), whole=whole)


def _numbered(words: Iterable[str]) -> ClassTable:
    names = sort_classes([*words])
    return ClassTable({word: label for label, word in enumerate(names)}, tuple(names))


def _class_table(words: Sequence[str], content: Any, where: str, *, whole: bool) -> ClassTable:
    try:
        table = _as_table(content)
        default = _numbered(table if whole and set(words) <= set(table) else words)
        entries = {word: table[word] for word in default.names}
        if all(isinstance(entry, str) for entry in entries.values()):
            return ClassTable(default.labels, tuple(entries.values()))
        indices = {word: entry["index"] for word, entry in table.items()}
        titles = {word: str(entry["name"]) for word, entry in table.items()}
    except (KeyError, TypeError) as error:
        raise UserError(f"{where} does not name every class ({error!r}); complete or remove it") from None
    _check_indices(indices, where)
    names = {index: titles[word] for word, index in indices.items()}
    labels = {word: indices[word] for word in entries}
    return ClassTable(labels, tuple(names.get(label, _placeholder(label)) for label in range(max(names) + 1)))


def _as_table(content: Any) -> Any:
    """A list of words, and labels by word, in the form that has ``index`` and ``name``; anything else as it is."""
    if isinstance(content, list) and len(set(content)) == len(content):
        content = {word: label for label, word in enumerate(content) if isinstance(word, str)}
    if isinstance(content, dict) and all(_is_whole(label) for label in content.values()):
        content = {word: {"index": label, "name": word} for word, label in content.items()}
    return {class_word(word): entry for word, entry in content.items()} if isinstance(content, dict) else content


def class_table_content(table: ClassTable) -> dict[str, dict[str, Any]]:
    """The content of a ``classes.json`` that says what ``table`` says."""
    return {word: {"index": label, "name": table.names[label]} for word, label in table.labels.items()}


def _check_indices(indices: Mapping[str, object], where: str) -> None:
    """Raise UserError unless every class has a label of its own, from 0 to what a model may have."""
    taken: dict[object, str] = {}
    for word, index in indices.items():
        if not isinstance(index, int) or not _is_whole(index) or not 0 <= index <= _MOST_CLASSES:
            raise UserError(
                f"{where} gives {word} the index {index!r}; expected a whole number from 0 to {_MOST_CLASSES}"
            )
        if index in taken:
            raise UserError(f"{where} gives {taken[index]} and {word} the same index {index}; correct it")
        taken[index] = word


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
