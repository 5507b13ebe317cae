"""Images listed in text files without a header line, as public sets give their splits: on each line an image, and its label.

The image is a path or a name, with or without extension; the label is what stands behind it. Where nothing does, the image's
folder is its class (``apple_pie/1005649``). A folder may hold lists that give images numbers, and labels and splits by these.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from sar_dist.command_help import given_local_path
from sar_dist.data.layout import (
    ClassTable,
    Split,
    SplitChoice,
    chosen_split,
    class_word,
    classes_file_of,
    is_image_name,
    member_extension,
    splits_of_path,
)
from sar_dist.data.making.sources.base import (
    FileSample,
    FileSource,
    choose_splits,
    first_repeated,
    unique_keys,
    unnamed_split,
)
from sar_dist.data.making.sources.command import SourceCommand, positive
from sar_dist.data.making.sources.image_names import ImageNames, folder_of_images
from sar_dist.data.making.sources.label_words import names_of_numbers, numbered_words
from sar_dist.data.making.sources.linked_images import check_links
from sar_dist.errors import UserError, shortened
from sar_dist.files import read_text
from sar_dist.output import warn

_BETWEEN = re.compile(r"[\s,;|]+")
_NUMBER = re.compile(r"[-+]?\d+(\.\d+)?")
_COMMENT = "#"


class ListedImage(NamedTuple):
    """A line of a list: its number, the image's name, its label, and the list."""

    line: int
    name: str
    label: str
    file: Path


def read_image_list(file: Path, field: int | None = None) -> list[ListedImage]:
    """The images that a list names; with ``field``, the label is the field of that number behind the image, from 1.

    Raises:
        UserError: it cannot be read, or a line holds no image, no label, or several numbers that may be labels.
    """
    found = []
    for number, line in enumerate(read_text(file).lstrip("\ufeff").splitlines(), 1):
        text = line.strip()
        if text and not text.startswith(_COMMENT):
            found.append(parse_list_line(text, file, number, field))
    if not found:
        raise UserError(f"{file} lists no images")
    return found


def parse_list_line(text: str, file: Path, line: int, field: int | None = None) -> ListedImage:
    """The image on a line of a list. Raises UserError as ``read_image_list``."""
    name, rest = _name_and_rest(text)
    return ListedImage(line, name, _label(f"{file}, line {line}", name, rest, field), file)


def _name_and_rest(text: str) -> tuple[str, str]:
    """The image of a line and what stands behind it: names may hold spaces where they have an extension."""
    if is_image_name(text) and not any(is_image_name(text[: match.start()]) for match in _BETWEEN.finditer(text)):
        return text, ""
    ends = [match for match in _BETWEEN.finditer(text) if is_image_name(text[: match.start()])]
    end = next(iter(ends or _BETWEEN.finditer(text)), None)
    return (text, "") if end is None else (text[: end.start()], text[end.end() :].strip())


def _label(where: str, name: str, rest: str, field: int | None) -> str:
    fields = [part for part in _BETWEEN.split(rest) if part]
    if field is not None:
        if field > len(fields):
            raise UserError(
                f"{where} has {len(fields)} fields behind the image, and no field {field}; give another --label-field"
            )
        return fields[field - 1]
    if len(fields) > 1 and all(map(_NUMBER.fullmatch, fields)):
        raise UserError(
            f"{where} has {len(fields)} numbers behind the image ({shortened(rest, 40)}); say which one is the label, with "
            "--label-field 1 for the first"
        )
    folder = name.strip("/").rpartition("/")[0]
    if not rest and not folder:
        raise UserError(
            f"{where}: {shortened(name, 40)!r} has neither a label behind it nor a folder that would be its class"
        )
    return rest or folder


_NUMBERED = ("images.txt", "image_class_labels.txt", "train_test_split.txt", "classes.txt")


def is_numbered(folder: Path) -> bool:
    """Whether a folder holds lists that give each image a number, and its label and split by it, as CUB-200-2011 and NABirds."""
    return all((folder / name).is_file() for name in _NUMBERED)


def numbered_lists(folder: Path) -> dict[str, list[ListedImage]]:
    """The training images, and the others as test images, of a folder with such lists.

    Raises:
        UserError: lists are missing, or an image has no entry in one of them.
    """
    if not is_numbered(folder):
        raise UserError(
            f"{folder} is a folder without the numbered lists {', '.join(_NUMBERED)}; give the file of a list"
        )
    images, labels, training, classes = (_by_number(folder / name) for name in _NUMBERED)
    found: dict[str, list[ListedImage]] = {"train": [], "test": []}
    for line, (number, name) in enumerate(images.items(), 1):
        flag, word = training.get(number), classes.get(labels.get(number, ""))
        if flag not in ("0", "1") or word is None:
            raise UserError(
                f"{folder / _NUMBERED[0]}, line {line}: the image {number} has no class, or neither 1 (training) nor 0 (test) in "
                f"{', '.join(_NUMBERED[1:])}; complete the copy"
            )
        found["train" if flag == "1" else "test"].append(ListedImage(line, name, word, folder / _NUMBERED[0]))
    return {split: listed for split, listed in found.items() if listed}


def _by_number(file: Path) -> dict[str, str]:
    """What stands behind the first field of each line. Raises UserError."""
    lines = [line.split(maxsplit=1) for line in read_text(file).splitlines() if line.strip()]
    short = next((number for number, fields in enumerate(lines, 1) if len(fields) < 2), None)
    if short is not None:
        raise UserError(f"{file}, line {short} does not hold a number and what it is; complete the copy")
    return {fields[0]: fields[1].strip() for fields in lines}


def list_sources(
    file: Path,
    val: Path | None,
    images: Path | None,
    split: Split | SplitChoice | None,
    field: int | None = None,
) -> list[FileSource]:
    """The samples of a list, or of one of training and one (``val``) of validation images.

    ``file`` may be a folder with numbered lists. Images lie below ``images``, by default below the list's folder or the one
    above. Labels are numbered as in tables, over both lists. Raises UserError naming the line.
    """
    if file.is_dir():
        if val is not None or field is not None:
            raise UserError(
                f"{file} is a folder, whose numbered lists say what is what; leave out --val and --label-field"
            )
        choice = chosen_split(split)
        found = numbered_lists(file)
        if choice is None and "test" in found:
            found["val"] = found.pop("test")
            warn(f"{file}: the {len(found['val'])} images that are not of training become the split val")
        listed = choose_splits(found, choice, file)
        roots = dict.fromkeys(listed, images or file / "images")
    else:
        splits = _splits(file, val, split)
        listed = {name: read_image_list(each, field) for each, name in splits.items()}
        roots = {name: images or _images_of(each, listed[name]) for each, name in splits.items()}
    return _sources_of(file, listed, roots)


def _sources_of(
    file: Path, listed: Mapping[Split, Sequence[ListedImage]], roots: Mapping[Split, Path]
) -> list[FileSource]:
    labels = [image.label for found in listed.values() for image in found]
    classes_file = classes_file_of(file if file.is_dir() else file.parent)
    words = numbered_words(set(labels), file, classes_file)
    names = words.names if words is not None else _names(labels, classes_file, file)
    paths = {name: _paths(found, roots[name]) for name, found in listed.items()}
    _refuse_shared(file, [{f"{roots[name] / path}" for path in found} for name, found in paths.items()])
    return [
        _source(roots[name], name, list(zip(paths[name], found, strict=True)), words, names)
        for name, found in listed.items()
    ]


def _splits(file: Path, val: Path | None, split: Split | SplitChoice | None) -> dict[Path, Split]:
    """The split of each list. Raises UserError where names contradict it."""
    named = splits_of_path(file.name)
    if val is not None:
        if split is not None:
            raise UserError(
                "--val and --split exclude each other: LIST is that of training images, and --val of validation images"
            )
        if file.resolve() == val.resolve():
            raise UserError(f"{file} is given as list of training and of validation images; give two lists")
        if (named and "train" not in named) or splits_of_path(val.name) == {"train"}:
            raise UserError(
                f"{file} and {val}: by their names the lists are exchanged; give that of training images first"
            )
        return {file: "train", val: "val"}
    choice = chosen_split(split)
    if len(named) == 1:
        made = choose_splits({next(iter(named)): file}, choice, file)
    else:
        made = choose_splits({unnamed_split(file.parent, choice): file}, choice, file)
    return dict.fromkeys([file], next(iter(made)))


def _images_of(file: Path, listed: Sequence[ListedImage]) -> Path:
    root = folder_of_images([image.name for image in listed], (file.parent, file.resolve().parent.parent))
    if root is None:
        raise UserError(
            f"{file}, line {listed[0].line}: there is no image {shortened(listed[0].name, 60)} in {file.parent}, nor beside it; "
            "say in which folder the images are, with --images"
        )
    return root


def _paths(listed: Sequence[ListedImage], root: Path) -> list[str]:
    images = ImageNames(root)
    paths = []
    for image in listed:
        path = images.path_of(image.name)
        if path is None:
            raise UserError(
                f"{image.file}, line {image.line}: there is no image {shortened(image.name, 60)} in {root}; restore it, or say with "
                "--images in which folder the images are"
            )
        paths.append(path)
    repeated = first_repeated(root, paths)
    if repeated is not None:
        first, second = repeated
        raise UserError(
            f"{listed[first].file} names {paths[second]} twice, on lines {listed[first].line} and {listed[second].line}; each image must be "
            "there once"
        )
    check_links(
        root, paths, [image.label for image in listed], lambda place: f"{listed[place].file}, line {listed[place].line}"
    )
    return paths


def _refuse_shared(file: Path, splits: Sequence[set[str]]) -> None:
    """Raise UserError where images are in two lists: a model would be scored on what it was trained on."""
    shared = sorted(set.intersection(*splits)) if len(splits) > 1 else []
    if shared:
        raise UserError(
            f"{file}: {len(shared)} of its images are in the list of validation images too, such as {shared[0]}; give lists of "
            "different images"
        )


def _names(labels: Sequence[str], classes_file: Path, file: Path) -> tuple[str, ...] | None:
    numbers = {int(class_word(label)) for label in labels}
    if min(numbers) > 0:
        warn(f"{file}: the labels begin with {min(numbers)}; they stay as they are, and no image is of class 0")
    return names_of_numbers(classes_file, max(numbers), file)


def _source(
    root: Path,
    split: Split,
    listed: Sequence[tuple[str, ListedImage]],
    words: ClassTable | None,
    names: tuple[str, ...] | None,
) -> FileSource:
    keys = unique_keys([path for path, _ in listed])
    samples = [
        FileSample(
            key,
            {member_extension(path): path},
            int(class_word(image.label)) if words is None else words.labels[class_word(image.label)],
        )
        for key, (path, image) in zip(keys, listed, strict=True)
    ]
    source = FileSource("lists", root, split, samples, names)
    source.words = words
    return source


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--val", type=given_local_path, metavar="LIST", help="list of the validation images")
    parser.add_argument(
        "--images",
        type=given_local_path,
        help="folder of the images (default: looked for beside the list and above it)",
    )
    parser.add_argument(
        "--label-field",
        type=positive,
        metavar="N",
        help="which field behind the image is the label, from 1 (default: all that is there; the image's folder where nothing is)",
    )


def _sources(given: argparse.Namespace) -> list[FileSource]:
    return list_sources(given.source, given.val, given.images, given.split, given.label_field)


COMMAND: SourceCommand = SourceCommand(
    name="lists",
    usage="lists LIST OUT",
    summary="lists without a header line, of an image and its label each; --val LIST of the validation images",
    add_arguments=_add_arguments,
    sources=_sources,
)
