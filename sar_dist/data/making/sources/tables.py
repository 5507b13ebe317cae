"""Images listed in a table: a file of paths and labels, in CSV or the like."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PureWindowsPath
from typing import NamedTuple

from sar_dist.command_help import given_local_path
from sar_dist.data.layout import (
    IMAGE_EXTENSIONS,
    SPLIT_NAMES,
    ClassTable,
    Split,
    SplitChoice,
    chosen_split,
    class_word,
    classes_file_of,
    is_image_name,
    member_extension,
    refuse_other_name,
    split_column,
    split_named,
    splits_of_images,
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
from sar_dist.data.making.sources.command import SourceCommand
from sar_dist.data.making.sources.image_names import ImageNames
from sar_dist.data.making.sources.label_words import names_of_numbers, numbered_words
from sar_dist.data.making.sources.linked_images import check_links
from sar_dist.data.making.sources.subsets import Subset, add_validation_argument, given_validation, with_validation
from sar_dist.data.making.sources.table_rows import TableRows, read_rows, with_one_hot_label
from sar_dist.data.shards import NO_LABEL
from sar_dist.errors import UserError, shortened
from sar_dist.output import warn

# What stands for no label in rows of splits that are not made.
_NO_LABELS = frozenset({"", "-1"})


@dataclass(frozen=True)
class CsvColumns:
    """Names of the columns: path of the image, label (a number or a class name), and split.

    A label "A,B" is the one of these columns that holds a 1. With split "" the table has none; None: it is looked for.
    """

    image: str = "path"
    label: str = "label"
    split: str | None = None


def csv_sources(
    table: Path,
    images: Path | None,
    columns: CsvColumns,
    split: Split | SplitChoice | None,
    validation: Subset | None = None,
) -> list[FileSource]:
    """The samples of a table with a header line; paths are relative to ``images``, by default the table's folder.

    Labels are either all whole numbers, taken as they are, or class names, numbered in alphabetical order over the whole
    table, or over a ``classes.json`` beside it, which also names the classes of numbers. With a split column, its rows named train, val or validation become these
    splits, or those that ``split`` chooses. A column that holds nothing but splits is the split column also where ``columns``
    names none. Otherwise the folders of the images say it, or the name of the table, or its folder; or all rows are
    ``split``, by default train. ``validation`` takes a validation split out of a table of training
    images. Raises UserError naming the line.
    """
    content = _read_table(table, columns)
    rows, columns = content.rows, content.columns
    root = images or table.parent
    _read_backslashes(table, root, content)
    choice = chosen_split(split)
    _find_named(table, root, content)
    splits = _splits_of_rows(table, content, choice)
    labels = _labels(_labels_of_rows(table, content, splits, choice), table)
    _check_paths(table, root, content)
    by_split: dict[str, list[tuple[str, int]]] = {}
    for row, label, name in zip(rows, labels.numbers, splits, strict=True):
        by_split.setdefault(name, []).append((row[columns.image], label))
    made = choose_splits(by_split, choice, table, {name: len(found) for name, found in by_split.items()})
    if validation is not None:
        made = with_validation(made, validation, table)
    return [_table_source(root, name, found, labels) for name, found in made.items()]


def _read_backslashes(table: Path, root: Path, content: _Table) -> None:
    """Write paths that Windows wrote with backslashes anew, and say so. Raises UserError for one that begins at a drive."""
    column, rewritten = content.columns.image, 0
    for line, row in zip(content.lines, content.rows, strict=True):
        written = row[column]
        if ("\\" not in written and written[1:2] != ":") or "\0" in written or os.path.lexists(root / written):
            continue
        path = PureWindowsPath(written)
        if path.drive or path.root:
            raise UserError(
                f"{table}, line {line}: {shortened(repr(written))} is a path on a computer with Windows; write paths below one "
                "folder, and say with --images where that is here"
            )
        row[column] = path.as_posix()
        rewritten += 1
    if rewritten:
        warn(f"{table}: {rewritten} paths are written with backslashes, as by Windows, which are read as slashes")


def _find_named(table: Path, root: Path, content: _Table) -> None:
    """Write names of images without their folder or extension as paths below ``root``, where the first row holds no path there.

    Raises:
        UserError: there are several images of such a name.
    """
    column = content.columns.image
    if not root.is_dir() or "\0" in content.rows[0][column] or os.path.lexists(root / content.rows[0][column]):
        return
    images, examples = ImageNames(root), []
    for row in content.rows:
        path = None if "\0" in row[column] else images.path_of(row[column])
        if path is not None and path != row[column]:
            examples.append((row[column], path))
            row[column] = path
    if examples:
        name, path = examples[0]
        warn(f"{table}: {len(examples)} images were found in {root} by their names, such as {name}, which is {path}")


def _check_paths(table: Path, root: Path, content: _Table) -> None:
    """Raise UserError for a path that is no image's, for two rows of one image, and for two labels of one file."""
    paths = [row[content.columns.image] for row in content.rows]
    for line, path in zip(content.lines, paths, strict=True):
        if "://" in path:
            raise UserError(
                f"{table}, line {line}: {shortened(repr(path))} is an address on the web; download the images, with img2dataset "
                "say, and list their files"
            )
        if not is_image_name(path) or "\0" in path:
            raise UserError(
                f"{table}, line {line}: {shortened(repr(path))} is no image by name ({', '.join(IMAGE_EXTENSIONS)})"
            )
    repeated = first_repeated(root, paths)
    if repeated is not None:
        first, second = repeated
        raise UserError(
            f"{table} names {paths[second]} twice, on lines {content.lines[first]} and {content.lines[second]}; "
            "each image must be there once"
        )
    labels = [row[content.columns.label] for row in content.rows]
    check_links(root, paths, labels, lambda place: f"{table}, line {content.lines[place]}")


def _splits_of_rows(table: Path, content: _Table, choice: SplitChoice | None) -> list[str]:
    """What split each row is of: by the split column, or the images' folders, or the name of the table or its folder.

    Raises:
        UserError: they contradict each other, or name two splits.
    """
    column, named = content.columns.split, splits_of_path(table.name)
    found: list[str] | None = None
    if column:
        lines = zip(content.lines, content.rows, strict=True)
        found = [split_named(row[column], choice, f"{table}, line {line}", column) for line, row in lines]
    elif column is None:
        found = splits_of_images([row[content.columns.image] for row in content.rows], str(table))
        if found is not None and len(set(found)) > 1:
            warn(
                f'{table}: the folders of the images say to which split each belongs (--split-column "" if they do not)'
            )
    if found is not None:
        if choice is None:
            refuse_other_name(named, {*found}, str(table))
        return found
    if len(named) > 1 and choice is None:
        raise UserError(f"{table} could be of two splits by name; rename it, or say with --split which one it is")
    if len(named) == 1:
        return [*named] * len(content.rows)
    return [unnamed_split(table.parent, choice)] * len(content.rows)


def _labels_of_rows(
    table: Path, content: _Table, splits: Sequence[str], choice: SplitChoice | None
) -> list[str | None]:
    """The labels as they are written; None: rows of splits that are not made need none, as test images often have none.

    Raises:
        UserError: a row of a split that is made has none.
    """
    made = SPLIT_NAMES.keys() if choice is None else {choice.source}
    labels: list[str | None] = []
    for line, row, split in zip(content.lines, content.rows, splits, strict=True):
        label = row[content.columns.label]
        if not label and split in made:
            raise UserError(_empty(table, line, content.columns.label))
        labels.append(None if label in _NO_LABELS and split not in made else label)
    if all(label is None for label in labels):
        raise UserError(
            f"{table}: no row has a label in {content.columns.label}; name another column with --label-column"
        )
    return labels


def _empty(table: Path, line: int, column: str) -> str:
    return f"{table}, line {line}: {shortened(column, 60)} is empty; fill it in, or take the row out"


class _Labels(NamedTuple):
    """The labels of a table's rows as numbers (NO_LABEL: none), what their words are, and the class names, as far as there are such."""

    numbers: list[int]
    words: ClassTable | None
    classes: tuple[str, ...] | None


def _table_source(root: Path, split: Split, rows: Sequence[tuple[str, int]], labels: _Labels) -> FileSource:
    paths = [path for path, _ in rows]
    samples = [
        FileSample(key, {member_extension(path): path}, label)
        for key, (path, label) in zip(unique_keys(paths), rows, strict=True)
    ]
    missing = f"paths are relative to {root}, unless --images says another folder; correct them, or restore the file"
    source = FileSource("csv", root, split, samples, labels.classes, missing=missing)
    source.words = labels.words
    return source


class _Table(NamedTuple):
    """The rows of a table with the number of the line each is on, and its columns, with the split column that was found."""

    lines: list[int]
    rows: list[dict[str, str]]
    columns: CsvColumns


def _read_table(table: Path, columns: CsvColumns) -> _Table:
    one_hot = [name.strip() for name in columns.label.split(",")] if "," in columns.label else []
    labels = one_hot or [columns.label]
    content = read_rows(table, [name for name in (columns.image, *labels, columns.split) if name])
    if one_hot:
        content = with_one_hot_label(content, table, one_hot, columns.label)
    if columns.split is None:
        columns = replace(columns, split=_split_column(table, content, columns))
    wanted = [name for name in (columns.image, columns.split) if name]
    for line, row in zip(content.lines, content.rows, strict=True):
        for name in wanted:
            if not row[name]:
                raise UserError(_empty(table, line, name))
    return _Table(content.lines, content.rows, columns)


def _split_column(table: Path, content: TableRows, columns: CsvColumns) -> str | None:
    """The column that says to which split a row belongs."""
    used = (columns.image, columns.label, *columns.label.split(","))
    others = [name for name in dict.fromkeys(content.header) if name not in used]
    entries = {name: {row[name] for row in content.rows} for name in others}
    return split_column(entries, str(table), "name splits such as train, val and test in all of its rows")


def _labels(values: Sequence[str | None], table: Path) -> _Labels:
    classes_file = classes_file_of(table.parent)
    given = {value for value in values if value is not None}
    words = numbered_words(given, table, classes_file)
    if words is not None:
        labels = {value: words.labels[class_word(value)] for value in given}
        return _Labels([NO_LABEL if value is None else labels[value] for value in values], words, words.names)
    numbers = [NO_LABEL if value is None else int(class_word(value)) for value in values]
    return _Labels(numbers, None, names_of_numbers(classes_file, max(numbers), table))


def add_columns(parser: argparse.ArgumentParser, image: str, label: str = "column of the label") -> None:
    """``--image-column``, ``--label-column`` and ``--split-column``, for what reads tables; ``image`` is the default of the first.

    ``label`` is what help says of the second.
    """
    parser.add_argument("--image-column", default=image, help="column of the image (default: %(default)s)")
    parser.add_argument("--label-column", default="label", help=f"{label} (default: %(default)s)")
    parser.add_argument("--split-column", help='column that says train or val; "": there is none (default: looked for)')


def _add_csv_arguments(parser: argparse.ArgumentParser) -> None:
    add_columns(parser, "path", "column of the label, or A,B,...: columns of classes, with a 1 in that of the image's")
    parser.add_argument(
        "--images", type=given_local_path, help="folder to which paths are relative (default: the table's)"
    )
    add_validation_argument(parser)


def _csv_sources(given: argparse.Namespace) -> list[FileSource]:
    columns = CsvColumns(given.image_column, given.label_column, given.split_column)
    return csv_sources(given.source, given.images, columns, given.split, given_validation(given))


COMMAND: SourceCommand = SourceCommand(
    name="csv",
    usage="csv TABLE OUT",
    summary="a table of image paths and labels",
    add_arguments=_add_csv_arguments,
    sources=_csv_sources,
)
