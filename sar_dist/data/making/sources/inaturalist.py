"""iNaturalist's competition sets: images listed in JSON files in the manner of COCO, as of 2017 to 2021.

``train2018.json`` (in 2021 ``train.json``, or ``train_mini.json`` of fewer images) has ``images`` (id, file_name) and ``annotations`` (image_id, category_id); ``categories`` (id, name and
the levels kingdom to genus) are there since 2019, and in ``categories.json`` for 2018, where lists hold ids alone.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sar_dist.data.layout import (
    IMAGE_EXTENSIONS,
    Split,
    is_image_name,
    is_left_over,
    member_extension,
    split_of_word,
    splits_by_name,
    splits_of_path,
)
from sar_dist.data.making.sources.base import FileSample, FileSource, first_repeated, unique_keys
from sar_dist.data.making.sources.command import SourceCommand
from sar_dist.errors import UserError
from sar_dist.files import read_regular
from sar_dist.output import warn

CATEGORIES_NAME = "categories.json"
SPECIES = "name"
# In the names of lists, beside the split.
_WORDS_BESIDE = frozenset({"", "mini", "public"})
LEVELS = (SPECIES, "genus", "family", "order", "class", "phylum", "kingdom", "supercategory")


def inaturalist_sources(root: Path, level: str = SPECIES) -> list[FileSource]:
    """The splits listed by ``train*.json`` and ``val*.json`` in ``root``, to which the paths of images are relative.

    Where ``level`` is "name" (species), labels are the places of the categories in the order of their ids, hence the ids
    themselves if these are 0..n-1; else those of the level's names in alphabetical order. All categories count, whether a
    split has images of them or not, so every split has the same numbers.

    Raises:
        UserError: no such lists, or one that contradicts itself.
    """
    try:
        names = [path.name for path in root.iterdir() if path.suffix == ".json" and not is_left_over(path.name)]
    except OSError as error:
        raise UserError(f"cannot read {root}: {error.strerror}") from None
    found = splits_by_name([name for name in names if _names_split(name)], str(root))
    unread = sorted(name for name in names if splits_of_path(name) and not _names_split(name))
    if unread:
        warn(f"{root}: left out {len(unread)} JSON files that are no lists of images by name, such as {unread[0]}")
    splits: tuple[Split, ...] = ("train", "val")
    lists: dict[Split, dict[str, Any]] = {}
    for split in splits:
        files = found.get(split, [])
        if len(files) > 1:
            raise UserError(
                f"{root} lists the {split} split {len(files)} times, in {' and '.join(files)}; move all but one away"
            )
        if files:
            lists[split] = _read_object(root / files[0])
    if not lists:
        raise UserError(f"{root} has no lists such as train2018.json and val2018.json, or train_mini.json and val.json")
    if "test" in found:
        warn(f"{root}: {' and '.join(found['test'])} not used; there are no labels to compare with")
    categories = _categories(root, lists)
    numbers, classes = _classes(categories, level, root)
    sources = [_list_source(root, split, content, numbers, classes) for split, content in lists.items()]
    _refuse_repeated(root, [str(image["file_name"]) for content in lists.values() for image in content["images"]])
    return sources


def _refuse_repeated(root: Path, paths: Sequence[str]) -> None:
    repeated = first_repeated(root, paths)
    if repeated is not None:
        raise UserError(
            f"the lists in {root} name the file {paths[repeated[1]]} twice, as {paths[repeated[0]]} before; each image must be "
            "there once, in one of the splits"
        )


def _names_split(name: str) -> bool:
    """Whether a list is one of a split: its name is a split word, perhaps with a year or "mini", as train2018.json."""
    words = [word for word in re.split(r"[^a-z]+", name.partition(".")[0].lower()) if word not in _WORDS_BESIDE]
    return len(words) == 1 and split_of_word(words[0]) is not None


def _read_object(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(read_regular(path))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"cannot read {path}: {error}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} is no list of iNaturalist: an object with images and annotations is expected")
    return content


def _categories(root: Path, lists: Mapping[Split, Mapping[str, Any]]) -> dict[int, Mapping[str, Any]]:
    """The categories by id: of ``categories.json`` or of the lists, which must agree; ids alone where there are none."""
    tables: list[Any] = [content["categories"] for content in lists.values() if content.get("categories")]
    file = root / CATEGORIES_NAME
    if file.is_file():
        try:
            tables.insert(0, json.loads(read_regular(file)))
        except (OSError, ValueError, RecursionError) as error:
            raise UserError(f"cannot read {file}: {error}") from None
    try:
        found = [{_whole(entry["id"]): dict(entry) for entry in table} for table in tables]
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"the categories in {root} are not a list of objects with an id ({error!r})") from None
    if not found:
        raise UserError(f"{root} names no categories; put {CATEGORIES_NAME} there")
    # Where the lists name ids only, categories.json has the names: what the first table says goes before the others.
    if any(table.keys() != found[0].keys() for table in found) or any(map(_differ, tables, found)):
        raise UserError(
            f"the lists in {root} have different categories, or one of them twice; take lists and {CATEGORIES_NAME} of one year"
        )
    for number in found[0]:
        _refuse_other_names(root, number, [table[number] for table in found])
    return {
        number: {k: v for table in reversed(found) for k, v in table[number].items()} for number in sorted(found[0])
    }


def _differ(entries: Sequence[object], by_id: Mapping[int, object]) -> bool:
    """Whether entries with the same id became one."""
    return len(entries) != len(by_id)


def _refuse_other_names(root: Path, number: int, entries: Sequence[Mapping[str, Any]]) -> None:
    """Raise UserError where two lists mean another class by an id; a name that repeats the id, as in 2018, is none."""
    for level in LEVELS:
        names = {
            entry[level]: None for entry in entries if isinstance(entry.get(level), str) and entry[level] != str(number)
        }
        if len(names) > 1:
            raise UserError(
                f"the {level} of category {number} is {' and '.join(names)} in the lists in {root}; take lists and "
                f"{CATEGORIES_NAME} of one year"
            )


def _whole(value: object) -> int:
    """An id, which JSON may have as a number or in quotes. Raises ValueError if it is no whole number."""
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError(f"{value!r} is no whole number")
    return int(value)


def _classes(
    categories: Mapping[int, Mapping[str, Any]], level: str, root: Path
) -> tuple[dict[int, int], tuple[str, ...]]:
    """Label of each category id, and the class names by label."""
    missing = [number for number, entry in categories.items() if not isinstance(entry.get(level), str)]
    if missing:
        has = [name for name in LEVELS if all(isinstance(entry.get(name), str) for entry in categories.values())]
        raise UserError(f"{root}: category {missing[0]} has no {level}; levels there are: {', '.join(has) or 'none'}")
    if level == SPECIES:  # every category is a class: the competition's numbers, in their order
        return {number: label for label, number in enumerate(categories)}, tuple(
            str(entry[SPECIES]) for entry in categories.values()
        )
    above = LEVELS[LEVELS.index(level) + 1 : LEVELS.index("kingdom") + 1]
    known = [name for name in reversed(above) if all(isinstance(entry.get(name), str) for entry in categories.values())]
    place = {number: tuple(str(entry[name]) for name in (*known, level)) for number, entry in categories.items()}
    places = sorted(set(place.values()), key=lambda parts: (parts[-1], parts))
    labels = {parts: label for label, parts in enumerate(places)}
    names = _level_names(places)
    apart = [name for name, parts in zip(names, places, strict=True) if name != parts[-1]]
    if apart:
        warn(
            f"{root}: of the same {level} by name, but of other places in the tree, are {', '.join(apart[:6])}: kept apart"
        )
    return {number: labels[parts] for number, parts in place.items()}, names


def _level_names(places: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    """What the classes at ``places`` (names from the kingdom down) are called: the last part, where another one shares it
    with the first part that tells them apart."""
    alike: dict[str, list[tuple[str, ...]]] = {}
    for parts in places:
        alike.setdefault(parts[-1], []).append(parts)
    names: list[str] = []
    for parts in places:
        others = alike[parts[-1]]
        telling = (part for part, *rest in zip(parts, *others, strict=True) if len(set(rest)) == len(others))
        names.append(f"{parts[-1]} ({next(telling, ' '.join(parts[:-1]))})" if len(others) > 1 else parts[-1])
    return tuple(names)


def _list_source(
    root: Path, split: Split, content: Mapping[str, Any], numbers: Mapping[int, int], classes: tuple[str, ...]
) -> FileSource:
    try:
        paths = {_whole(image["id"]): str(image["file_name"]) for image in content["images"]}
        labels = [(_whole(entry["image_id"]), _whole(entry["category_id"])) for entry in content["annotations"]]
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"the {split} list in {root} has no images with annotations ({error!r})") from None
    category = dict(labels)
    images = len(content["images"])
    if len(category) != len(labels) or category.keys() != paths.keys() or len(paths) != images:
        raise UserError(
            f"the {split} list in {root} contradicts itself: {images} images of {len(paths)} ids, "
            f"{len(labels)} annotations of {len(category)} images; each image must have an id and an annotation of its own"
        )
    strange = next((path for path in paths.values() if not is_image_name(path)), None)
    if strange is not None:
        raise UserError(
            f"the {split} list in {root} names {strange}, which is no image by name ({', '.join(IMAGE_EXTENSIONS)}); take it out"
        )
    unknown = sorted(set(category.values()) - numbers.keys())
    if unknown:
        raise UserError(
            f"the {split} list in {root} uses category {unknown[0]}, which is not among the {len(numbers)}; complete them"
        )
    order = sorted(paths, key=paths.__getitem__)
    samples = [
        FileSample(key, {member_extension(paths[image]): paths[image]}, numbers[category[image]])
        for key, image in zip(unique_keys([paths[image] for image in order]), order, strict=True)
    ]
    return FileSource("inaturalist", root, split, samples, classes)


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--level",
        choices=LEVELS,
        default=SPECIES,
        help="level of the categories that is the class (default: %(default)s)",
    )


def _sources(given: argparse.Namespace) -> Sequence[FileSource]:
    return inaturalist_sources(given.source, given.level)


COMMAND: SourceCommand = SourceCommand(
    name="inaturalist",
    usage="inaturalist SRC OUT",
    summary="iNaturalist's JSON lists, SRC/train2018.json and so on",
    add_arguments=_add_arguments,
    sources=_sources,
    chooses_split=False,
)
