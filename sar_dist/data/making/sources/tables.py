"""Images listed in a table: a CSV file of paths and labels, or Parquet files as image data sets on the Hub have them."""

from __future__ import annotations

import argparse
import bisect
import csv
import hashlib
import io
import itertools
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sar_dist.data.layout import (
    CLASSES_NAME,
    IMAGE_EXTENSIONS,
    ClassTable,
    Split,
    SplitChoice,
    class_word,
    doubtful_words,
    is_image_name,
    is_left_over,
    member_extension,
    read_class_table,
    split_of_word,
    splits_by_name,
)
from sar_dist.data.making.sources.base import FileSample, FileSource, Source, choose_splits, unique_keys
from sar_dist.data.making.sources.command import SourceCommand
from sar_dist.errors import UserError, shortened
from sar_dist.files import read_regular
from sar_dist.keys import keyed_permutation
from sar_dist.output import warn

_SIGNATURES = (
    (b"\xff\xd8", "jpg"),
    (b"\x89PNG", "png"),
    (b"GIF8", "gif"),
    (b"BM", "bmp"),
    (b"II*", "tif"),
    (b"MM", "tif"),
)


_MOST_DIGITS = 7  # of a class number


@dataclass(frozen=True)
class CsvColumns:
    """Names of the columns: path of the image, label (a number or a class name), and split.

    With split "" the table has none; None: it is looked for.
    """

    image: str = "path"
    label: str = "label"
    split: str | None = None


def csv_sources(
    table: Path, images: Path | None, columns: CsvColumns, split: Split | SplitChoice | None
) -> list[FileSource]:
    """The samples of a table with a header line; paths are relative to ``images``, by default the table's folder.

    Labels are either all whole numbers, taken as they are, or class names, numbered in alphabetical order over the whole
    table, or over a ``classes.json`` beside it. With a split column, its rows named train, val or validation become these
    splits, or those that ``split`` chooses; otherwise all rows are ``split``, by default train. A column that holds nothing
    but splits is the split column also where ``columns`` names none. The separator is a tab in .tsv files, else a comma.
    Spaces around a field do not count. Raises UserError naming the line.
    """
    content = _read_table(table, columns)
    rows, columns = content.rows, content.columns
    labels, words = _labels([row[columns.label] for row in rows], table)
    choice = SplitChoice(split, split) if isinstance(split, str) else split
    by_split: dict[str, list[tuple[str, int]]] = {}
    for line, row, label in zip(content.lines, rows, labels, strict=True):
        path = row[columns.image]
        if not is_image_name(path) or "\0" in path:
            raise UserError(
                f"{table}, line {line}: {shortened(repr(path))} is no image by name ({', '.join(IMAGE_EXTENSIONS)})"
            )
        name = "" if not columns.split else _split_named(row[columns.split], choice, f"{table}, line {line}")
        by_split.setdefault(name, []).append((path, label))
    if not columns.split:
        made: dict[Split, list[tuple[str, int]]] = (
            {"train" if choice is None else choice.wanted: by_split[""]} if rows else {}
        )
    else:
        made = choose_splits(by_split, choice, table)
    root = images or table.parent
    return [_table_source(root, name, found, words) for name, found in made.items()]


def _table_source(root: Path, split: Split, rows: Sequence[tuple[str, int]], words: ClassTable | None) -> FileSource:
    paths = [path for path, _ in rows]
    if len(set(paths)) != len(paths):
        twice = next(path for path, group in itertools.groupby(sorted(paths)) if len(list(group)) > 1)
        raise UserError(f"the table names {twice} twice; each image must be there once")
    samples = [
        FileSample(key, {member_extension(path): path}, label)
        for key, (path, label) in zip(unique_keys(paths), rows, strict=True)
    ]
    source = FileSource("csv", root, split, samples, None if words is None else words.names)
    source.words = words
    return source


class _Table(NamedTuple):
    """The rows of a table with the number of the line each is on, and its columns, with the split column that was found."""

    lines: list[int]
    rows: list[dict[str, str]]
    columns: CsvColumns


def _read_table(table: Path, columns: CsvColumns) -> _Table:
    try:
        text = io.StringIO(read_regular(table).decode("utf-8-sig"), newline="")
        # Strict: a quote that is not closed would swallow all rows behind it.
        reader = csv.reader(text, delimiter="\t" if table.suffix == ".tsv" else ",", strict=True)
        content = [(reader.line_num, [field.strip() for field in fields]) for fields in reader if fields]
    except UnicodeDecodeError as error:
        raise UserError(f"cannot read {table}: it is not UTF-8 ({error.reason}); save it as UTF-8") from None
    except (OSError, csv.Error) as error:
        raise UserError(f"cannot read {table}: {error}") from None
    header = content[0][1] if content else []
    _check_header(table, header, [name for name in (columns.image, columns.label, columns.split) if name])
    lines = [line for line, _ in content[1:]]
    for line, fields in content[1:]:
        if len(fields) > len(header):
            raise UserError(f"{table}, line {line}: {len(fields)} fields, but the header line has {len(header)}")
    rows = [dict(itertools.zip_longest(header, fields, fillvalue="")) for _, fields in content[1:]]
    if columns.split is None:
        columns = replace(columns, split=_split_column(table, header, rows, columns))
    wanted = [name for name in (columns.image, columns.label, columns.split) if name]
    for line, row in zip(lines, rows, strict=True):
        if not all(row[name] for name in wanted):
            raise UserError(f"{table}, line {line}: one of {', '.join(wanted)} is empty")
    return _Table(lines, rows, columns)


def _check_header(table: Path, header: Sequence[str], wanted: Sequence[str]) -> None:
    for name in wanted:
        if name not in header:
            raise UserError(
                f"{table} has no column {name!r}, only {', '.join(header) or 'no header line'}; "
                "name them with --image-column, --label-column and --split-column"
            )
    for name in wanted:
        if header.count(name) > 1:
            raise UserError(f"{table} has {header.count(name)} columns {name!r}; rename all but one")


def _split_column(
    table: Path, header: Sequence[str], rows: Sequence[Mapping[str, str]], columns: CsvColumns
) -> str | None:
    """The column that says to which split a row belongs: the one in which every entry is a split."""
    others = [name for name in dict.fromkeys(header) if name not in (columns.image, columns.label)]
    found = [name for name in others if rows and all(split_of_word(row[name]) for row in rows)]
    named = [name for name in others if name.lower() == "split"]
    if len(found) > 1 or (named and not found):
        raise UserError(
            f"{table}: it is not clear whether {' or '.join(found or named)} says to which split a row belongs; "
            'name the column with --split-column, or give --split-column "" if there is none'
        )
    if found:
        warn(f'{table}: the column {found[0]} says to which split a row belongs (--split-column "" if it does not)')
    return found[0] if found else None


def _labels(values: Sequence[str], table: Path) -> tuple[list[int], ClassTable | None]:
    words = _numbered_words(values, table, table.parent / CLASSES_NAME)
    if words is None:
        return [int(value) for value in values], None
    return [words.labels[class_word(value)] for value in values], words


def _numbered_words(values: Iterable[str], where: Path, classes_file: Path) -> ClassTable | None:
    """The numbering of labels that are words, alphabetical or as ``classes_file`` says; None: all are numbers.

    Raises:
        UserError: some are numbers and some are not, or they are no class numbers.
    """
    different = sorted({class_word(value) for value in values})
    numbers = [value for value in different if re.fullmatch(r"\s*[+-]?[0-9]+([.][0-9]*)?\s*", value)]
    if not numbers:
        doubt = doubtful_words(different)
        if doubt is not None:
            warn(f"{where}: {doubt}")
        return read_class_table(different, classes_file, whole=True)
    if len(numbers) < len(different):
        word = next(value for value in different if value not in numbers)
        raise UserError(
            f"{where} mixes numbers and names as labels, such as {numbers[0]} and {word}; make them one of these"
        )
    wrong = [value for value in numbers if not value.strip().isdecimal() or len(value.strip()) > _MOST_DIGITS]
    if wrong:
        shown = wrong[0] if len(wrong[0]) <= 40 else f"{wrong[0][:20]}..."
        raise UserError(
            f"{where} has labels that are negative, fractional or too large to be class numbers, such as {shown}"
        )
    return None


def _split_named(value: str, choice: SplitChoice | None, where: str) -> str:
    split = split_of_word(value)
    if split is not None:
        return split
    if choice is not None and value.strip().lower() == choice.source:
        return choice.source
    raise UserError(f"{where}: split {value!r} is neither train, val nor test; --split NAME=val gives it a meaning")


def parquet_sources(
    root: Path, image_column: str, label_column: str, split: Split | SplitChoice | None
) -> list[ParquetSource]:
    """The splits of a folder of Parquet files in the layout of the ``datasets`` library, or of one such file.

    Files belong to the split that their name says (train-00000-of-00005.parquet); where no name does, to ``split`` or
    train. Of several splits, ``split`` chooses one. The image column holds ``{"bytes", "path"}`` or plain bytes, the label column whole numbers, whose names are in
    the files' metadata, or words, which are numbered in alphabetical order over the training files (of whatever split is made,
    where there are none), or by a ``classes.json`` in the folder. Raises UserError.
    """
    choice = SplitChoice(split, split) if isinstance(split, str) else split
    files = [root] if root.is_file() else sorted(root.rglob("*.parquet"))
    if not files:
        raise UserError(f"no .parquet files in {root}")
    paths = {path.relative_to(root.parent if root.is_file() else root).as_posix(): path for path in files}
    paths = {name: path for name, path in paths.items() if not any(map(is_left_over, name.split("/")))}
    found = splits_by_name(list(paths), str(root))
    chosen = choose_splits(found, choice, root) if found else {choice.wanted if choice else "train": sorted(paths)}
    numbering = found.get("train") or [name for names in chosen.values() for name in names]
    for split_made, names in chosen.items():
        _refuse_other_splits([paths[name] for name in names], choice.source if choice else split_made)
    folder = root.parent if root.is_file() else root
    words = _parquet_words([paths[name] for name in numbering], label_column, folder)
    return [
        ParquetSource([paths[name] for name in names], found_split, image_column, label_column, words)
        for found_split, names in chosen.items()
    ]


def _refuse_other_splits(files: Sequence[Path], split: str) -> None:
    """Raise UserError where a column called split says that rows of these files are not of ``split``."""
    for path in files:
        parquet = _open_parquet(path)
        for column in (name for name in parquet.schema_arrow.names if name.lower() == "split"):
            named = {
                word: split_of_word(word) or word.strip().lower() for word in map(str, _values(path, parquet, column))
            }
            others = sorted(word for word, meant in named.items() if meant != split)
            if others and any(map(split_of_word, named)):  # otherwise it is about something else
                raise UserError(
                    f"{path}: its column {column} says that rows are of the split {others[0]}, but its rows would be of {split}; "
                    "write each split to files of its own, or take the column out"
                )


def _values(path: Path, parquet: Any, column: str) -> set[object]:
    """The different values of a column."""
    with _readable(path):
        return set(parquet.read(columns=[column], use_threads=False).column(0).unique().to_pylist())


def _parquet_words(files: Sequence[Path], label_column: str, folder: Path) -> ClassTable | None:
    """The numbering of a label column of words; None where labels are anything else."""
    values: set[object] = set()
    for path in files:
        parquet = _open_parquet(path)
        if label_column not in parquet.schema_arrow.names:
            return None  # the source says it, with the columns that there are
        kind = str(parquet.schema_arrow.field(label_column).type)
        if "string" not in kind or kind.startswith(("list", "struct", "map", "large_list")):
            return None
        values |= _values(path, parquet, label_column)
    return _numbered_words([value for value in values if isinstance(value, str)], folder, folder / CLASSES_NAME)


class ParquetSource(Source):
    """Rows of Parquet files. Whole row groups are permuted, not single rows, so that each is read about once.

    Raises UserError if pyarrow is not installed, or the files do not have the columns.
    """

    def __init__(
        self,
        files: Sequence[Path],
        split: Split,
        image_column: str,
        label_column: str,
        words: ClassTable | None = None,
    ) -> None:
        self.split = split
        self.words = words
        self._files = files
        self._columns = [image_column, label_column]
        self._groups: list[tuple[int, int]] = []
        starts = [0]
        for number, path in enumerate(files):
            parquet = _open_parquet(path)
            missing = [name for name in self._columns if name not in parquet.schema_arrow.names]
            if missing:
                raise UserError(
                    f"{path} has no column {missing[0]!r}, only {', '.join(parquet.schema_arrow.names)}; "
                    "name them with --image-column and --label-column"
                )
            for group in range(parquet.num_row_groups):
                self._groups.append((number, group))
                starts.append(starts[-1] + parquet.metadata.row_group(group).num_rows)
        self._starts = starts
        named = _class_names(_open_parquet(files[0]).schema_arrow.metadata, label_column)
        self.classes = named if words is None else words.names
        self._cached: tuple[int, Any] | None = None

    def __len__(self) -> int:
        return self._starts[-1]

    def order(self, seed: int) -> np.ndarray:
        groups = keyed_permutation(len(self._groups), seed, "row groups of", self.split).tolist()
        return np.concatenate([np.arange(self._starts[group], self._starts[group + 1]) for group in groups])

    def sample(self, number: int) -> tuple[str, Mapping[str, bytes]]:
        group = bisect.bisect_right(self._starts, number) - 1
        image, label = self._row(group, number - self._starts[group])
        where = f"row {number} of the {self.split} split"
        data = image["bytes"] if isinstance(image, dict) else image
        if not isinstance(data, bytes):
            raise UserError(f"{where} holds no image, or one outside of the Parquet files")
        label = self._number(label, where)
        extension = next((name for start, name in _SIGNATURES if data.startswith(start)), "jpg")
        if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
            extension = "webp"
        return f"{self.split}-{number:08d}", {extension: data, "cls": str(label).encode()}

    def _number(self, label: object, where: str) -> int:
        if self.words is not None:
            word = class_word(label) if isinstance(label, str) else ""
            if word not in self.words.labels:
                raise UserError(
                    f"{where} has the label {label!r}, which is not among the {len(self.words.labels)} classes of the training "
                    f"files; take such rows out, or number all classes in a {CLASSES_NAME} beside the files"
                )
            return self.words.labels[word]
        number = (
            int(label) if isinstance(label, str) and label.strip().isdecimal() and len(label) < _MOST_DIGITS else label
        )
        if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number < 10**_MOST_DIGITS:
            raise UserError(f"{where} has the label {label!r}, not a class number; is it a split without labels?")
        return number

    def _row(self, group: int, row: int) -> list[Any]:
        if self._cached is None or self._cached[0] != group:
            number, group_in_file = self._groups[group]
            parquet = _open_parquet(self._files[number])
            with _readable(self._files[number]):
                table = parquet.read_row_group(group_in_file, columns=self._columns, use_threads=False)
            self._cached = (group, table)
        return [self._cached[1].column(name)[row].as_py() for name in self._columns]

    def description(self) -> dict[str, Any]:
        return {"kind": "parquet", "files": [path.name for path in self._files]}

    def digest(self) -> str:
        sizes = [(path.name, path.stat().st_size) for path in self._files]
        words = () if self.words is None else (sorted(self.words.labels.items()),)
        return hashlib.sha256(repr((sizes, self._columns, *words)).encode()).hexdigest()

    def size(self) -> int:
        return sum(path.stat().st_size for path in self._files)


def _open_parquet(path: Path) -> Any:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError:
        raise UserError("reading Parquet files needs pyarrow: pip install 'sar_dist[parquet]'") from None
    try:
        if not path.is_file():
            raise OSError("it is a pipe, a device or a folder, not a file")
        return parquet.ParquetFile(path)
    except (OSError, ArrowException) as error:
        raise UserError(f"cannot read {path}: {error}") from None


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Damage inside a Parquet file as a UserError."""
    from pyarrow import ArrowException

    try:
        yield
    except (OSError, ArrowException) as error:
        raise UserError(f"cannot read {path}: {error}; restore it") from None


def _class_names(metadata: Mapping[bytes, bytes] | None, label_column: str) -> tuple[str, ...] | None:
    """The names of a ClassLabel feature, which the ``datasets`` library keeps in the schema's metadata."""
    try:
        feature = json.loads((metadata or {})[b"huggingface"])["info"]["features"][label_column]
        return tuple(map(str, feature["names"]))
    except (KeyError, TypeError, ValueError):
        return None


def _add_columns(parser: argparse.ArgumentParser, image: str) -> None:
    parser.add_argument("--image-column", default=image, help="column of the image (default: %(default)s)")
    parser.add_argument("--label-column", default="label", help="column of the label (default: %(default)s)")


def _add_csv_arguments(parser: argparse.ArgumentParser) -> None:
    _add_columns(parser, "path")
    parser.add_argument("--split-column", help='column that says train or val; "": there is none (default: looked for)')
    parser.add_argument("--images", type=Path, help="folder to which paths are relative (default: the table's)")


def _csv_sources(given: argparse.Namespace) -> list[FileSource]:
    columns = CsvColumns(given.image_column, given.label_column, given.split_column)
    return csv_sources(given.source, given.images, columns, given.split)


CSV_COMMAND: SourceCommand = SourceCommand(
    name="csv",
    usage="csv TABLE OUT",
    summary="a table of image paths and labels",
    add_arguments=_add_csv_arguments,
    sources=_csv_sources,
)
PARQUET_COMMAND: SourceCommand = SourceCommand(
    name="parquet",
    usage="parquet SRC OUT",
    summary="image data sets of the `datasets` library",
    add_arguments=lambda parser: _add_columns(parser, "image"),
    sources=lambda given: parquet_sources(given.source, given.image_column, given.label_column, given.split),
)
