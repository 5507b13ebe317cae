"""Labels that are several: written as JSON and Python write lists, or joined, as in sets with several labels an image."""

from __future__ import annotations

import ast
import os
from collections import Counter
from collections.abc import Collection
from pathlib import Path

from sar_dist.data.layout.classes import CLASSES_NAME, class_word, read_label_words
from sar_dist.errors import UserError, shortened

_JOINTS = (";", "|", ",", "/", "&", "+", " ")
# The others are in names of classes too, so that numbers between them are no labels ("M4 2010" where M4 is a class).
_CERTAIN_JOINTS = (";", "|", ",")
_MOST_LIST_LETTERS = 1000


def refuse_lists(words: Collection[str], where: str, classes_file: Path) -> None:
    """Raise UserError where a label is a list of labels, as in sets with several labels an image, and not a class's word.

    It is one if it is written like a list of JSON or Python, or joins numbers, or words that are labels of other images, and may
    be one as ``_likely_list`` says. Where there is a ``classes_file``, it says what the classes are.
    """
    found = [
        word for word in sorted(words) if _is_written_list(word) or any(_is_joined(word, j, words) for j in _JOINTS)
    ]
    is_said = os.path.lexists(classes_file)
    if found and is_said:
        classes = read_label_words(classes_file).labels
        found = [word for word in found if word not in classes]
    if found:
        raise UserError(
            f"{where}: the label {shortened(found[0], 40)!r} is a list of labels, and an image has one class here; keep one label in "
            f"such rows, or take them out; if it is one class, list all classes in a {CLASSES_NAME} beside the table, or write it as "
            "one word, such as cat_dog"
        )
    likely = None if is_said else _likely_list(words)
    if likely is not None:
        raise UserError(
            f"{where}: the label {shortened(likely, 40)!r} may be a list of labels, as parts of it are in other labels too, and an "
            f"image has one class here; keep one label in such rows, or, if they are classes, name all classes in {classes_file}"
        )


def _likely_list(words: Collection[str]) -> str | None:
    """A label of several parts of which others have some: any with "|" or ";", with commas if that is so of half of them.

    A part that always has the same place is none: it is a genus ("animal|cat", "animal|dog"; "warbler, palm", "warbler, pine").
    Words of WordNet are synonyms with commas, of which a few are other classes' words too ("maillot, tank suit").
    """
    for joint, share in (("|", 0.0), (";", 0.0), (",", 0.5)):
        joined = {word: [class_word(part) for part in word.split(joint)] for word in words if joint in word}
        places: dict[str, set[int]] = {}
        for parts in joined.values():
            for place, part in enumerate(parts):
                places.setdefault(part, set()).add(place)
        shared = [
            word
            for word, parts in joined.items()
            if any(part and len({*parts} - {""}) > 1 and (part in words or len(places[part]) > 1) for part in parts)
        ]
        if shared and len(shared) >= share * len(joined):
            return min(shared)
    return None


def _is_joined(word: str, joint: str, words: Collection[str]) -> bool:
    """Whether ``word`` is several of ``words``, or numbers, with ``joint`` between them."""
    parts = [class_word(part) for part in word.split(joint)]
    if len(parts) < 2:
        return False
    if joint in _CERTAIN_JOINTS:
        return all(part in words or part.isdecimal() for part in parts)
    return all(part in words for part in parts) or all(part.isdecimal() for part in parts)


def lists_remark(words: Collection[str]) -> str | None:
    """What to say where labels of several words may be lists: two of the words are labels themselves, or all of few words.

    None: nothing.
    """
    several = {word: set(word.split()) for word in words if " " in word}
    held = Counter(part for word in words for part in {*word.split()})
    of_labels = [word for word, parts in several.items() if len(parts.intersection(words)) > 1]
    made_of_few = (
        len(several) > 2 and len(held) < len(words) and all(held[p] > 1 for parts in several.values() for p in parts)
    )
    if not of_labels and not made_of_few:
        return None
    return (
        f"{len(several)} of the {len(words)} classes are several words that are in other labels too, such as "
        f"{min(of_labels or several)!r}; if these are lists of labels, keep one label an image"
    )


def _is_written_list(word: str) -> bool:
    if word[:1] not in "[({" or len(word) > _MOST_LIST_LETTERS:
        return False
    try:
        return isinstance(ast.literal_eval(word), list | tuple | set)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return False
