"""Parquet files as image data sets on the Hub have them, in the layout of the ``datasets`` library."""

from __future__ import annotations

import bisect
import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sar_dist.data.layout import (
    CLASSES_NAME,
    ClassTable,
    Split,
    SplitChoice,
    check_parts,
    chosen_split,
    class_word,
    classes_file_of,
    format_of_image,
    read_label_words,
    refuse_doubled_parts,
)
from sar_dist.data.making.sources.base import Source, choose_splits
from sar_dist.data.making.sources.command import SourceCommand
from sar_dist.data.making.sources.label_words import MOST_DIGITS, names_of_numbers, numbered_words
from sar_dist.data.making.sources.parquet_reading import (
    FileRows,
    check_columns,
    open_parquet,
    read_column,
    readable,
    refuse_copies,
)
from sar_dist.data.making.sources.parquet_splits import count_rows, find_parquet_files, rows_by_split
from sar_dist.data.making.sources.tables import add_columns
from sar_dist.errors import UserError, shortened
from sar_dist.keys import keyed_permutation

_STORE_IMAGES = (
    "take such rows out, store the images' bytes in the files, or list their paths in a table for `make_shards.py csv`"
)


def parquet_sources(
    root: Path,
    image_column: str,
    label_column: str,
    split: Split | SplitChoice | None,
    split_column: str | None = None,
) -> list[ParquetSource]:
    """The splits of a folder of Parquet files in the layout of the ``datasets`` library, or of one such file.

    Rows belong to the split that ``split_column`` says, or a column that holds nothing but splits; else files to the one that
    their name says (train-00000-of-00005.parquet), which goes before where names tell several ("": names alone do); where
    nothing does, to ``split``, or what the folder is called, or train. Of several splits, ``split`` chooses one. The image column holds ``{"bytes", "path"}`` or plain bytes, the label column whole numbers, whose names are in
    the files' metadata, or words, which are numbered in alphabetical order over the training rows (of whatever split is made,
    where there are none), or by a ``classes.json`` in the folder. Raises UserError.
    """
    choice = chosen_split(split)
    columns = (image_column, label_column)
    paths = find_parquet_files(root)
    found = rows_by_split(root, paths, columns, split_column, choice)
    chosen = choose_splits(found, choice, root, count_rows(found))
    for rows in chosen.values():
        refuse_doubled_parts([*rows], str(root))
        check_parts([*rows], str(root))
        refuse_copies([each.path for each in rows.values()])
        check_columns([each.path for each in rows.values()], columns)
        _refuse_missing_images([each.path for each in rows.values()], image_column)
    made = {name: [*rows.values()] for name, rows in chosen.items()}
    all_made = [each for rows_made in made.values() for each in rows_made]
    numbering = [*found["train"].values()] if "train" in found else all_made
    labels = _labels_of(numbering, all_made, label_column, root.parent if root.is_file() else root)
    return [ParquetSource(rows, name, image_column, label_column, labels) for name, rows in made.items()]


class ParquetLabels(NamedTuple):
    """What the labels mean: the numbering of words (None: they are numbers), and class names by label where they are known."""

    words: ClassTable | None = None
    classes: tuple[str, ...] | None = None


def _labels_of(numbering: Sequence[FileRows], made: Sequence[FileRows], column: str, folder: Path) -> ParquetLabels:
    """What the labels of the rows ``made`` mean, where words are numbered over the rows ``numbering``.

    Raises:
        UserError: a row has no label that can be used, or files give labels different meanings.
    """
    check_columns([rows.path for rows in numbering], (column,))
    values = {_identity(rows): (rows.path, _label_values(rows, column)) for rows in [*numbering, *made]}
    in_words = {path: any(isinstance(value, str) for value in found) for path, found in values.values() if found}
    if len(set(in_words.values())) > 1:
        word_file, number_file = (next(path for path in in_words if in_words[path] is kind) for kind in (True, False))
        raise UserError(f"labels are words in {word_file} and numbers in {number_file}; make them one of these")
    classes_file = classes_file_of(folder)
    texts = sorted({value for rows in numbering for value in values[_identity(rows)][1] if isinstance(value, str)})
    words = numbered_words(texts, folder, classes_file) if texts else None
    if words is not None:
        for path, found in (values[_identity(rows)] for rows in made):
            unknown = sorted(word for word in map(str, found) if class_word(word) not in words.labels)
            if unknown:
                raise UserError(
                    f"{path} has the label {unknown[0]!r}, which is not among the {len(words.labels)} classes of the training "
                    f"files; take such rows out, or number all classes in a {CLASSES_NAME} beside the files"
                )
        return ParquetLabels(words, words.names)
    numbers = [(path, _class_number(path, value)) for path, found in values.values() for value in found]
    path, highest = max(numbers, key=lambda pair: pair[1], default=(folder, 0))
    files = [*dict.fromkeys(path for path, _ in values.values())]
    names = _class_names(files, column)
    if names is None:
        return ParquetLabels(None, names_of_numbers(classes_file, highest, folder))
    if highest >= len(names):
        raise UserError(
            f"{path} has the label {highest}, but its column {column} names the {len(names)} classes 0 to {len(names) - 1}"
        )
    return ParquetLabels(None, _agreed_names(names, classes_file, files[0]))


def _identity(rows: FileRows) -> tuple[Path, bytes]:
    """What tells rows of files apart, to look at each once."""
    return rows.path, b"" if rows.chosen is None else rows.chosen.tobytes()


def _agreed_names(names: tuple[str, ...], classes_file: Path, file: Path) -> tuple[str, ...]:
    """The names of the classes in the files' metadata, or what a ``classes.json`` calls the same classes.

    Raises:
        UserError: it gives a label to another class.
    """
    if not os.path.lexists(classes_file):
        return names
    table = read_label_words(classes_file)
    words = {label: word for word, label in table.labels.items()}
    for label, (name, given) in enumerate(zip_longest(names, table.names, fillvalue="no class")):
        if class_word(name) not in (words.get(label, "no class"), class_word(given)):
            raise UserError(
                f"label {label} is {name} in {file} and {given} in {classes_file}; correct or remove {classes_file.name}"
            )
    return table.names


def _label_values(rows: FileRows, column: str) -> set[object]:
    """The different labels of rows: words, or numbers. Raises UserError where a row has none, or they are no such."""
    from pyarrow import types

    path = rows.path
    kind = open_parquet(path).schema_arrow.field(column).type
    plain = kind.value_type if types.is_dictionary(kind) else kind
    if not types.is_integer(plain) and "string" not in str(plain).partition("<")[0] and not types.is_null(plain):
        raise UserError(
            f"{path}: its column {column} is of the type {kind}, expected whole numbers or words; name another with --label-column"
        )
    labels = read_column(rows, column)
    if labels.null_count:
        raise UserError(f"{path}: {labels.null_count} of its {len(labels)} rows have no label; take such rows out")
    values = set(labels.unique().to_pylist())
    if any(isinstance(value, str) and not class_word(value) for value in values):
        raise UserError(f"{path}: some of its {len(labels)} rows have an empty label; take such rows out")
    return values


def _class_number(path: Path, value: object) -> int:
    text = str(value).strip()
    if not text.isascii() or not text.isdecimal() or len(text) > MOST_DIGITS:
        raise UserError(f"{path} has the label {value!r}, not a class number; is it a split without labels?")
    return int(text)


def _refuse_missing_images(files: Iterable[Path], column: str) -> None:
    """Raise UserError where the column holds no image files, or where statistics say that rows have none, or no bytes of one."""
    from pyarrow import types

    for path in files:
        parquet = open_parquet(path)
        metadata = parquet.metadata
        kind = parquet.schema_arrow.field(column).type
        of_bytes = kind.field("bytes").type if types.is_struct(kind) and kind.get_field_index("bytes") >= 0 else kind
        if not any(word in str(of_bytes).partition("<")[0] for word in ("binary", "struct", "null")):
            raise UserError(
                f"{path}: its column {column} is of the type {shortened(str(kind), 60)}, expected the bytes of one image file a row; "
                f"name another with --image-column, or {_STORE_IMAGES.partition(', ')[2]}"
            )
        # Without a field for bytes there are no statistics of one either.
        missing = metadata.num_rows if types.is_struct(kind) and kind.get_field_index("bytes") < 0 else 0
        for group in range(metadata.num_row_groups):
            chunks = [metadata.row_group(group).column(number) for number in range(metadata.num_columns)]
            named = [chunk for chunk in chunks if chunk.path_in_schema in (column, f"{column}.bytes")]
            missing += sum(chunk.statistics.null_count or 0 for chunk in named if chunk.statistics is not None)
        if missing:
            raise UserError(
                f"{path}: {missing} of its {metadata.num_rows} rows hold no image, or one outside of the file; {_STORE_IMAGES}"
            )


class ParquetSource(Source):
    """Rows of Parquet files. Whole row groups are permuted, not single rows, so that each is read about once.

    Raises UserError if pyarrow is not installed, or the files do not have the columns.
    """

    def __init__(
        self,
        rows: Sequence[FileRows],
        split: Split,
        image_column: str,
        label_column: str,
        labels: ParquetLabels,
    ) -> None:
        self.split = split
        self.words = labels.words
        self.classes = labels.classes
        self._rows = rows
        self._columns = [image_column, label_column]
        self._groups: list[tuple[int, int]] = []
        self._places: list[range | np.ndarray] = []  # in the group, of the rows that are meant
        starts = [0]
        for number, (path, chosen) in enumerate(rows):
            parquet = open_parquet(path)
            first = 0
            for group in range(parquet.num_row_groups):
                count = parquet.metadata.row_group(group).num_rows
                places = range(count) if chosen is None else np.flatnonzero(chosen[first : first + count])
                first += count
                self._groups.append((number, group))
                self._places.append(places)
                starts.append(starts[-1] + len(places))
        self._starts = starts
        self._cached: tuple[int, Any] | None = None

    def __len__(self) -> int:
        return self._starts[-1]

    def order(self, seed: int) -> np.ndarray:
        groups = keyed_permutation(len(self._groups), seed, "row groups of", self.split).tolist()
        return np.concatenate([np.arange(self._starts[group], self._starts[group + 1]) for group in groups])

    def sample(self, number: int) -> tuple[str, Mapping[str, bytes]]:
        group = bisect.bisect_right(self._starts, number) - 1
        image, label = self._row(group, int(self._places[group][number - self._starts[group]]))
        file = self._rows[self._groups[group][0]].path
        where = f"row {number} of the {self.split} split, in {file},"
        data = image.get("bytes") if isinstance(image, dict) else image
        if not data:
            what = "an image of 0 bytes" if data == b"" else "no image, or one outside of the Parquet files"
            raise UserError(f"{where} holds {what}; {_STORE_IMAGES}")
        extension = format_of_image(data) or "jpg"
        return f"{self.split}-{number:08d}", {extension: data, "cls": str(self._number(label)).encode()}

    def _number(self, label: object) -> int:
        """The label of a row, whose values were all looked at before, as a number."""
        return int(str(label)) if self.words is None else self.words.labels[class_word(str(label))]

    def _row(self, group: int, row: int) -> list[Any]:
        if self._cached is None or self._cached[0] != group:
            number, group_in_file = self._groups[group]
            parquet = open_parquet(self._rows[number].path)
            with readable(self._rows[number].path):
                table = parquet.read_row_group(group_in_file, columns=self._columns, use_threads=False)
            self._cached = (group, table)
        return [self._cached[1].column(name)[row].as_py() for name in self._columns]

    def description(self) -> dict[str, Any]:
        return {"kind": "parquet", "files": [rows.path.name for rows in self._rows]}

    def digest(self) -> str:
        digest = hashlib.sha256(repr(self._columns).encode())
        for rows in self._rows:
            labels = read_column(rows, self._columns[1]).to_pylist()
            digest.update(repr((rows.path.name, rows.path.stat().st_size, labels)).encode())
            if rows.chosen is not None:
                digest.update(np.packbits(rows.chosen).tobytes())
        return digest.hexdigest()

    def size(self) -> int:
        parts = [1.0 if rows.chosen is None else float(rows.chosen.mean()) for rows in self._rows]
        return int(sum(part * rows.path.stat().st_size for part, rows in zip(parts, self._rows, strict=True)))


def _class_names(files: Iterable[Path], column: str) -> tuple[str, ...] | None:
    """The names of a ClassLabel feature, which the ``datasets`` library keeps in the schema's metadata; None: there are none.

    Raises UserError where files have different ones: a label would not mean the same class in all.
    """
    found: dict[tuple[str, ...], Path] = {}
    for path in files:
        metadata = open_parquet(path).schema_arrow.metadata or {}
        try:
            names = json.loads(metadata[b"huggingface"])["info"]["features"][column]["names"]
        except (KeyError, TypeError, ValueError, RecursionError):
            continue
        if isinstance(names, list) and names:
            found.setdefault(tuple(class_word(str(name)) for name in names), path)
    if len(found) > 1:
        (names, path), (others, other), *_ = found.items()
        pairs = zip_longest(names, others, fillvalue="no class")
        label, (ours, theirs) = next((label, pair) for label, pair in enumerate(pairs) if pair[0] != pair[1])
        raise UserError(
            f"label {label} is {ours} in {path} and {theirs} in {other}; make the files with one list of class names"
        )
    for names, path in found.items():
        _refuse_repeated_name(names, path, column)
    return next(iter(found), None)


def _refuse_repeated_name(names: Sequence[str], path: Path, column: str) -> None:
    """Raise UserError where two labels have one name: a class would be two."""
    first: dict[str, int] = {}
    for label, name in enumerate(names):
        other = first.setdefault(name, label)
        if other != label:
            raise UserError(
                f"{path}: its column {column} names the labels {other} and {label} alike, {name!r}; rename one of them, or make "
                "the files with one label for it"
            )


COMMAND: SourceCommand = SourceCommand(
    name="parquet",
    usage="parquet SRC OUT",
    summary="image data sets of the `datasets` library",
    add_arguments=lambda parser: add_columns(parser, "image"),
    sources=lambda given: parquet_sources(
        given.source, given.image_column, given.label_column, given.split, given.split_column
    ),
)
