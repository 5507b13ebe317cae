"""Labels that are several: written as JSON and Python write lists, or joined, as in sets with several labels an image."""

from __future__ import annotations

import ast
import os
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from sar_dist.data.layout.classes import CLASSES_NAME, class_word, read_label_words
from sar_dist.errors import UserError, shortened

_JOINTS = (";", "|", ",", "/", "&", "+", " ")
# The others are in names of classes too, so that numbers between them are no labels ("M4 2010" where M4 is a class).
_CERTAIN_JOINTS = (";", "|", ",")
# Between others names have words that are other names ("ski mask", "railing, rail"): they are lists where half of all such labels seem to be.
_LISTS_ALONE = (";", "|")
_SHARE_OF_LISTS = 0.5
_MOST_LIST_LETTERS = 1000


def refuse_lists(words: Collection[str], where: str, classes_file: Path) -> None:
    """Raise UserError where a label is a list of labels, as in sets with several labels an image, and not a class's word.

    It is one if it is written like a list of JSON or Python, or joins numbers, or words that are labels of other images, and may
    be one as ``_likely_list`` says. Where there is a ``classes_file``, it says what the classes are.
    """
    joined = {word for joint in _JOINTS for word in _joined(words, joint)}
    found = sorted(joined.union(filter(_is_written_list, words)))
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

    Words of WordNet are synonyms with commas, of which a few are other classes' words too ("maillot, tank suit"). Parts that always
    have the same place are a genus or a surname ("animal|cat", "animal|dog"; "Doe, John", "Doe, Jane"), and count where they are labels.
    """
    for joint in _CERTAIN_JOINTS:
        parted = _parted(words, joint)
        common = _common_parts(parted, anywhere=False)
        shared = [word for word, parts in parted.items() if not common.union(words).isdisjoint(parts)]
        if shared and (joint in _LISTS_ALONE or len(shared) >= _SHARE_OF_LISTS * len(parted)):
            return min(shared)
    return None


def _parted(words: Collection[str], joint: str) -> dict[str, list[str]]:
    """Words that have several parts with ``joint`` between them -> the parts."""
    parted = {word: [class_word(part) for part in word.split(joint)] for word in words if joint in word}
    return {word: parts for word, parts in parted.items() if len({*parts} - {""}) > 1}


def _common_parts(parted: Mapping[str, Sequence[str]], *, anywhere: bool) -> set[str]:
    """Parts that several words have; without ``anywhere`` those that have no place of their own, from the start or from the end."""
    places: dict[str, list[tuple[int, int]]] = {}
    for parts in parted.values():
        for part in {*parts} - {""}:
            place = parts.index(part)
            places.setdefault(part, []).append((place, len(parts) - place))
    return {
        part
        for part, found in places.items()
        if len(found) > 1 and (anywhere or all(len(set(ends)) > 1 for ends in zip(*found, strict=True)))
    }


def _joined(words: Collection[str], joint: str) -> list[str]:
    """Those of ``words`` that are several of them, or numbers, with ``joint`` between them; none where these are but a few of many names."""
    found = [word for word in words if joint in word and _is_joined(word, joint, words)]
    if joint in _LISTS_ALONE or len(found) >= _SHARE_OF_LISTS * len(_parted(words, joint)):
        return found
    return [word for word in found if all(class_word(part).isdecimal() for part in word.split(joint))]


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

    So are labels with "|" or ";" that have parts in common, and with commas if that is so of half of them. None: nothing.
    """
    several = {word: set(word.split()) for word in words if " " in word}
    held = Counter(part for word in words for part in {*word.split()})
    found = [word for word, parts in several.items() if len(parts.intersection(words)) > 1]
    found += [word for word in words if "," in word and _is_joined(word, ",", words)]
    if len(several) > 2 and len(held) < len(words) and all(held[p] > 1 for parts in several.values() for p in parts):
        found = found or [*several]
    for joint in _CERTAIN_JOINTS:
        parted = _parted(words, joint)
        common = _common_parts(parted, anywhere=True)
        shared = [word for word, parts in parted.items() if not common.isdisjoint(parts)]
        if joint in _LISTS_ALONE or len(shared) >= _SHARE_OF_LISTS * len(parted):
            found = found or shared
    if not found:
        return None
    return (
        f"{len(found)} of the {len(words)} classes {'is' if len(found) == 1 else 'are'} several words or parts that are in other labels too, such as "
        f"{min(found)!r}; if these are lists of labels, keep one label an image"
    )


def _is_written_list(word: str) -> bool:
    if word[:1] not in "[({" or len(word) > _MOST_LIST_LETTERS:
        return False
    try:
        return isinstance(ast.literal_eval(word), list | tuple | set)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return False
