"""How classes are named and numbered.

- Names that look the same are the same class: Unicode's composed and decomposed letters (which macOS writes), spaces
  around and between words, characters that cannot be seen.
- Classes are numbered from 0: in the order of their numbers if all words are whole numbers, else in alphabetical order,
  as torchvision's ImageFolder does. A ``classes.json`` may say otherwise.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sar_dist.data.layout.splits import split_folders, split_of_folder
from sar_dist.errors import UserError, shortened
from sar_dist.files import read_regular
from sar_dist.legible import legible
from sar_dist.output import warn

CLASSES_NAME = "classes.json"
_MOST_CLASSES = 10_000_000


# Soft hyphen, zero-width space, marks of direction, word joiner, byte order mark: left behind by editors and spreadsheets.
_UNSEEN = dict.fromkeys(map(ord, "\u00ad\u200b\u200e\u200f\u2060\ufeff"))
# What tables are full of where a value is missing.
_MISSING = frozenset({"nan", "none", "null", "n/a", "na", "<na>", "nil", "#n/a", "?", "-", "--", "."})


def class_word(text: str) -> str:
    """A class's word in the form in which words are compared: composed letters (Unicode NFC), single spaces, all visible.

    What is no text, such as a byte of a folder's name that is not UTF-8, is an escape in it.
    """
    return legible(" ".join(unicodedata.normalize("NFC", text).translate(_UNSEEN).split()))


def doubtful_words(words: Iterable[str]) -> str | None:
    """What to say of class words that may not be meant as they stand: alike but for capitals, or marks of a missing value."""
    taken: dict[str, str] = {}
    for word in sorted(set(words)):
        if word.casefold() in _MISSING:
            return f"{word!r} is taken for the name of a class; if it marks a missing label, take those images out"
        other = taken.setdefault(word.casefold(), word)
        if other != word:
            return f"{other!r} and {word!r} are two classes, which differ in capitals alone; if they are one, rename it"
    return None


def sort_classes(names: Sequence[str]) -> list[str]:
    """Class names in the order of their labels: whole numbers by value if all are, else alphabetical."""
    if all(name.isascii() and name.isdecimal() for name in names):
        return sorted(names, key=lambda name: (int(name), name))
    return sorted(names)


def order_remark(names: Sequence[str]) -> str | None:
    """What to say about the order of ``names`` (sorted by ``sort_classes``) where other readers have another one."""
    natural = sorted(names, key=_natural)
    numbers = all(name.isascii() and name.isdecimal() for name in names)
    other = next((name for label, name in enumerate(names) if numbers and int(name) != label), None)
    labels = "" if other is None else f"; {_labels_are_places(names, other)}"
    if list(names) != sorted(names):
        return (
            f"the {len(names)} class folders are numbers and labelled in their order ({', '.join(names[:3])}, ...), as by "
            f"timm's reader; torchvision's ImageFolder sorts them as words{labels}"
        )
    if other is not None:
        return f"the {len(names)} class folders are numbers, and not their labels: {_labels_are_places(names, other)}"
    if list(names) != natural:
        place = next(i for i, (name, other) in enumerate(zip(names, natural, strict=True)) if name != other)
        return (
            f"the classes are labelled in alphabetical order, as by torchvision's ImageFolder: label {place} is "
            f"{names[place]}; timm's reader would give it to {natural[place]}"
        )
    return None


def _labels_are_places(names: Sequence[str], other: str) -> str:
    """Of class folders called by numbers, of which ``other`` is the first that is not its label."""
    return (
        f"labels are 0 to {len(names) - 1} in their order, and the images in folder {other} have the label {names.index(other)}; a "
        f"{CLASSES_NAME} gives others"
    )


def _natural(name: str) -> list[tuple[int, int, str]]:
    """timm's order of names: runs of digits by value, the rest as lower-case words."""
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in re.split(r"(\d+)", name.lower())]


def named_classes(names: Sequence[str], other: Collection[str] = ()) -> dict[int, str]:
    """Label and word of the classes in ``names``, without the places of a larger set that a subset does not name.

    Classes may be called like such places, "class 7": a list that ends so has such classes, since the highest label of a subset is named, and
    so has one that is compared with an ``other`` list in which there is one.
    """
    called_so = bool(names) and names[-1] == _placeholder(len(names) - 1)
    known = {class_word(name) for name in other}
    return {
        label: class_word(name)
        for label, name in enumerate(names)
        if called_so or name != _placeholder(label) or name in known
    }


def refuse_numbers_as_names(names: Sequence[str] | None, owner: str, unnamed: str) -> None:
    """Raise UserError where ``names``, those of ``owner``, are whole numbers other than their labels, and ``unnamed`` has none.

    A label 2 of what has no names may be the class that is called 2, or the one that has the number 2.
    """
    for label, name in named_classes(names or ()).items():
        if name.isascii() and name.isdecimal() and int(name) != label:
            raise UserError(
                f"{owner} calls the class with label {label} {name!r}, and {unnamed} names no classes: it is not clear whether a label "
                f"{name} there is that class or a number; put a {CLASSES_NAME} beside it, or make both with the same class names"
            )


def _placeholder(label: int) -> str:
    return f"class {label}"


@dataclass(frozen=True)
class ClassTable:
    """Label of each class by the word that stands for it (its folder's name, say), and the class names by label."""

    labels: Mapping[str, int]
    names: tuple[str, ...]


def classes_file_of(folder: Path, *above: Path) -> Path:
    """The ``classes.json`` of a set or split: in ``folder``, in those ``above``, or in the training split's folder beside or in them.

    The one in ``folder`` where there is none. Says which one it is where it lies in the folder of another split.
    """
    whole = Path(os.path.abspath(folder))
    places = [folder, *above, *([whole.parent] if split_of_folder(folder) else [])]
    file = next((place / CLASSES_NAME for place in places if os.path.lexists(place / CLASSES_NAME)), None)
    for place in places if file is None else ():
        with contextlib.suppress(UserError):  # that splits are ambiguous is for those to say who read them
            train = split_folders(place).get("train")
            if train is not None and os.path.lexists(train / CLASSES_NAME):
                warn(f"{folder}: the classes are numbered as in {train / CLASSES_NAME}")
                return train / CLASSES_NAME
    return file or folder / CLASSES_NAME


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
    table = _entries(data, where)
    if not all(_is_whole(entry) for entry in table.values()):
        return _class_table([*table], table, where, whole=False)
    if sorted(table.values()) != list(range(len(table))):
        raise UserError(f"{where} does not give its {len(table)} classes the labels 0..{len(table) - 1}; correct it")
    return ClassTable(table, tuple(sorted(table, key=table.__getitem__)))


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
        data = classes_file.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {classes_file}: {error}; correct or remove it") from None
    return _class_table(words, _entries(data, str(classes_file)), str(classes_file), whole=whole)


def _entries(data: bytes, where: str) -> dict[str, Any]:
    """What the content of a ``classes.json`` says of each word: its label, its name, or both, and the same kind of all.

    Raises UserError for anything else.
    """
    try:
        content = json.loads(data, object_pairs_hook=_once)
        if isinstance(content, list) and content:
            content = _once([(_listed_word(word), label) for label, word in enumerate(content)])
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"cannot read {where}: {error}; correct or remove it") from None
    except ValueError as error:
        raise UserError(f"{where} does not name classes: {error}; correct or remove it") from None
    if not isinstance(content, dict) or not content:
        raise UserError(
            f"{where} does not name classes: it holds {shortened(json.dumps(content), 20)} instead of a list of words, or an "
            "object with an entry for each of them; correct or remove it"
        )
    wanted = _entry_kind(next(iter(content.values())))
    for word, entry in content.items():
        if wanted is None or _entry_kind(entry) is not wanted:
            raise UserError(
                f"{where} gives {word!r} the entry {shortened(json.dumps(entry), 40)}; expected a name for every class, a label "
                'for every class, or {"name": NAME, "index": LABEL} for every class; correct or remove it'
            )
    return content


def _entry_kind(entry: object) -> type | None:
    """Which of the kinds of entries one is, by its type; None: none of them."""
    if isinstance(entry, dict):
        return dict if isinstance(entry.get("name"), str) and "index" in entry else None
    return next((kind for kind in (str, int) if isinstance(entry, kind) and not isinstance(entry, bool)), None)


def _listed_word(word: object) -> str:
    """A word of a list, which may be a whole number. Raises ValueError."""
    if isinstance(word, str) or _is_whole(word):
        return str(word)
    raise ValueError(f"its list holds {shortened(json.dumps(word), 40)}, which is no word")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON, in which Python would let a later entry replace an earlier one of the same class."""
    content = {class_word(word): value for word, value in pairs}
    if len(content) < len(pairs):
        count = Counter(class_word(word) for word, _ in pairs)
        raise ValueError(f"{count.most_common(1)[0][0]!r} is there twice")
    return content


def _numbered(words: Iterable[str]) -> ClassTable:
    names = sort_classes([*words])
    return ClassTable({word: label for label, word in enumerate(names)}, tuple(names))


def _class_table(words: Sequence[str], table: Mapping[str, Any], where: str, *, whole: bool) -> ClassTable:
    _refuse_quoted_labels(table, where)
    absent = next((word for word in words if word not in table), None)
    if absent is not None:
        raise UserError(f"{where} does not name every class, such as {absent!r}; complete or remove it")
    words = [*table] if whole else words
    if all(isinstance(entry, str) for entry in table.values()):
        default = _numbered(words)
        return ClassTable(default.labels, tuple(table[word] for word in default.names))
    entries = {word: {"index": entry, "name": word} if _is_whole(entry) else entry for word, entry in table.items()}
    indices = {word: entry["index"] for word, entry in entries.items()}
    _check_indices(indices, where)
    names = {index: entries[word]["name"] for word, index in indices.items()}
    labels = {word: indices[word] for word in words}
    return ClassTable(labels, tuple(names.get(label, _placeholder(label)) for label in range(max(names) + 1)))


def _refuse_quoted_labels(table: Mapping[str, Any], where: str) -> None:
    """Raise UserError where what stands for names is the numbers 0..n-1: labels in quotes, which would not be followed."""
    different = [(word, entry) for word, entry in table.items() if word != entry]
    numbers = {str(label) for label in range(len(table))}
    if different and all(isinstance(entry, str) for entry in table.values()) and numbers == set(table.values()):
        word, entry = different[0]
        raise UserError(
            f'{where} gives {word!r} the name "{entry}", and so on, which look like labels in quotes; write labels without '
            f'quotes, such as {{"{word}": {entry}}}, or names that are no numbers'
        )


def refuse_number_words(labels: Mapping[str, int], where: str) -> None:
    """Raise UserError where a word is a whole number other than its label: it would not be clear what a label is."""
    for word, label in labels.items():
        if word.isascii() and word.isdecimal() and (word.lstrip("0") or "0") != str(label):
            raise UserError(
                f"{where} gives the word {word!r} the label {label}, so that it is not clear which of them a label {word} is; "
                "use words that are no numbers, or remove it if labels are numbers from 0"
            )


def class_table_content(table: ClassTable) -> dict[str, dict[str, Any]]:
    """The content of a ``classes.json`` that says what ``table`` says."""
    return {word: {"index": label, "name": table.names[label]} for word, label in table.labels.items()}


def _check_indices(indices: Mapping[str, object], where: str) -> None:
    """Raise UserError unless every class has a label of its own, from 0 to what a model may have."""
    taken: dict[object, str] = {}
    for word, index in indices.items():
        if not isinstance(index, int) or not _is_whole(index) or not 0 <= index <= _MOST_CLASSES:
            raise UserError(
                f"{where} gives {word} the index {shortened(repr(index), 40)}; expected a whole number from 0 to {_MOST_CLASSES}"
            )
        if index in taken:
            raise UserError(f"{where} gives {taken[index]} and {word} the same index {index}; correct it")
        taken[index] = word


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
