"""Parquet files as image data sets on the Hub have them, in the layout of the ``datasets`` library."""

from __future__ import annotations

import bisect
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sar_dist.data.layout import (
    CLASSES_NAME,
    ClassTable,
    Split,
    SplitChoice,
    called_like_splits,
    check_parts,
    class_word,
    is_left_over,
    read_label_words,
    split_columns,
    split_of_word,
    splits_by_name,
)
from sar_dist.data.making.sources.base import Source, choose_splits, own_split
from sar_dist.data.making.sources.command import SourceCommand
from sar_dist.data.making.sources.label_words import MOST_DIGITS, names_of_numbers, numbered_words
from sar_dist.data.making.sources.tables import add_columns
from sar_dist.errors import UserError, shortened
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
_STORE_IMAGES = (
    "take such rows out, store the images' bytes in the files, or list their paths in a table for `make_shards.py csv`"
)


def parquet_sources(
    root: Path, image_column: str, label_column: str, split: Split | SplitChoice | None
) -> list[ParquetSource]:
    """The splits of a folder of Parquet files in the layout of the ``datasets`` library, or of one such file.

    Files belong to the split that their name says (train-00000-of-00005.parquet); where no name does, to ``split``, or
    what the folder is called, or train. Of several splits, ``split`` chooses one. The image column holds ``{"bytes", "path"}`` or plain bytes, the label column whole numbers, whose names are in
    the files' metadata, or words, which are numbered in alphabetical order over the training files (of whatever split is made,
    where there are none), or by a ``classes.json`` in the folder. Raises UserError.
    """
    choice = SplitChoice(split, split) if isinstance(split, str) else split
    folder = root.parent if root.is_file() else root
    files = [root] if root.is_file() else sorted(path for path in root.rglob("*") if path.suffix.lower() == ".parquet")
    if not files:
        raise UserError(f"no .parquet files in {root}")
    paths = {path.relative_to(folder).as_posix(): path for path in files}
    paths = {name: path for name, path in paths.items() if not any(map(is_left_over, name.split("/")))}
    found = splits_by_name(list(paths), str(root))
    chosen = (
        choose_splits(found, choice, root) if found else {choice.wanted if choice else own_split(folder): sorted(paths)}
    )
    made = {split_made: [paths[name] for name in names] for split_made, names in chosen.items()}
    for split_made, names in chosen.items():
        check_parts(names, str(root))
        _check_columns(made[split_made], (image_column, label_column))
        _refuse_missing_images(made[split_made], image_column)
        _check_split_columns(made[split_made], choice.source if choice else split_made, (image_column, label_column))
    all_made = [path for paths_made in made.values() for path in paths_made]
    numbering = [paths[name] for name in found["train"]] if "train" in found else all_made
    labels = _labels_of(numbering, all_made, label_column, folder)
    return [
        ParquetSource(paths_made, split_made, image_column, label_column, labels)
        for split_made, paths_made in made.items()
    ]


def _check_split_columns(files: Sequence[Path], split: str, used: Sequence[str]) -> None:
    """Say which columns may say to which split a row belongs: rows are of the split that their file is of.

    Raises:
        UserError: such a column says that rows of these files are not of ``split``.
    """
    said: set[str] = set()
    for path in files:
        entries = _entries_about_splits(path, used)
        found = split_columns(entries)
        # In a column of that very name one split among the words is enough.
        certain = {name for name in entries if name.lower() == "split" and any(map(split_of_word, entries[name]))}
        for column in sorted({*found.certain, *certain}):
            others = sorted(word for word in entries[column] if (split_of_word(word) or word.strip().lower()) != split)
            if others:
                raise UserError(
                    f"{path}: its column {column} says that rows are of the split {others[0]}, but its rows would be of {split}; "
                    "write each split to files of its own, or take the column out"
                )
        for column in set(found.possible) - certain - said:
            said.add(column)
            warn(
                f"{path}: the column {column} may say to which split a row belongs, and is not used: files are of one split"
            )


def _entries_about_splits(path: Path, used: Sequence[str]) -> dict[str, set[str]]:
    """The different entries, as text, of the columns that may be about splits; a long column of texts is not read for that."""
    from pyarrow import types

    parquet = _open_parquet(path)
    entries: dict[str, set[str]] = {}
    for column, kind in zip(parquet.schema_arrow.names, parquet.schema_arrow.types, strict=True):
        plain = kind.value_type if types.is_dictionary(kind) else kind
        text = "string" in str(plain).partition("<")[0]
        single = text or types.is_integer(plain) or types.is_boolean(plain)
        if column in used or not single or parquet.schema_arrow.names.count(column) > 1:
            continue
        if called_like_splits(column) or (text and all(map(split_of_word, _extremes(parquet, column)))):
            entries[column] = set(map(str, _values(path, parquet, column)))
    return entries


def _extremes(parquet: Any, column: str) -> list[str]:
    """The first and the last text of a column in each row group, by the file's statistics; "" alone where there are none."""
    found: list[str] = []
    for group in range(parquet.num_row_groups):
        chunks = (parquet.metadata.row_group(group).column(place) for place in range(parquet.metadata.num_columns))
        statistics = next((chunk.statistics for chunk in chunks if chunk.path_in_schema == column), None)
        if statistics is None or not statistics.has_min_max:
            return [""]
        found += [str(statistics.min), str(statistics.max)]
    return found


def _values(path: Path, parquet: Any, column: str) -> set[object]:
    """The different values of a column."""
    with _readable(path):
        return set(parquet.read(columns=[column], use_threads=False).column(0).unique().to_pylist())


class ParquetLabels(NamedTuple):
    """What the labels mean: the numbering of words (None: they are numbers), and class names by label where they are known."""

    words: ClassTable | None = None
    classes: tuple[str, ...] | None = None


def _labels_of(numbering: Sequence[Path], made: Sequence[Path], column: str, folder: Path) -> ParquetLabels:
    """What the labels of the files ``made`` mean, where words are numbered over the files ``numbering``.

    Raises:
        UserError: a row has no label that can be used, or files give labels different meanings.
    """
    files = [*dict.fromkeys([*numbering, *made])]
    _check_columns(numbering, (column,))
    values = {path: _label_values(path, column) for path in files}
    in_words = {path: any(isinstance(value, str) for value in found) for path, found in values.items() if found}
    if len(set(in_words.values())) > 1:
        word_file, number_file = (next(path for path in in_words if in_words[path] is kind) for kind in (True, False))
        raise UserError(f"labels are words in {word_file} and numbers in {number_file}; make them one of these")
    classes_file = folder / CLASSES_NAME
    texts = sorted({value for path in numbering for value in values[path] if isinstance(value, str)})
    words = numbered_words(texts, folder, classes_file) if texts else None
    if words is not None:
        for path in made:
            unknown = sorted(word for word in map(str, values[path]) if class_word(word) not in words.labels)
            if unknown:
                raise UserError(
                    f"{path} has the label {unknown[0]!r}, which is not among the {len(words.labels)} classes of the training "
                    f"files; take such rows out, or number all classes in a {CLASSES_NAME} beside the files"
                )
        return ParquetLabels(words, words.names)
    numbers = {path: [_class_number(path, value) for value in values[path]] for path in files}
    highest = max((number for found in numbers.values() for number in found), default=0)
    names = _class_names(files, column)
    if names is None:
        return ParquetLabels(None, names_of_numbers(classes_file, highest, folder))
    if highest >= len(names):
        path = next(path for path in files if highest in numbers[path])
        raise UserError(
            f"{path} has the label {highest}, but its column {column} names the {len(names)} classes 0 to {len(names) - 1}"
        )
    return ParquetLabels(None, _agreed_names(names, classes_file, files[0]))


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


def _label_values(path: Path, column: str) -> set[object]:
    """The different labels in a file: words, or numbers. Raises UserError where a row has none, or they are no such."""
    from pyarrow import types

    parquet = _open_parquet(path)
    kind = parquet.schema_arrow.field(column).type
    plain = kind.value_type if types.is_dictionary(kind) else kind
    if not types.is_integer(plain) and "string" not in str(plain).partition("<")[0] and not types.is_null(plain):
        raise UserError(
            f"{path}: its column {column} is of the type {kind}, expected whole numbers or words; name another with --label-column"
        )
    with _readable(path):
        labels = parquet.read(columns=[column], use_threads=False).column(0)
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
        parquet = _open_parquet(path)
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


def _check_columns(files: Iterable[Path], columns: Iterable[str]) -> None:
    """Raise UserError unless every file has each of the columns once."""
    for path in files:
        names = _open_parquet(path).schema_arrow.names
        for column in columns:
            if column not in names:
                raise UserError(
                    f"{path} has no column {column!r}, only {', '.join(names)}; name them with --image-column and --label-column"
                )
            if names.count(column) > 1:
                raise UserError(f"{path} has {names.count(column)} columns {column!r}; rename all but one")


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
        labels: ParquetLabels,
    ) -> None:
        self.split = split
        self.words = labels.words
        self.classes = labels.classes
        self._files = files
        self._columns = [image_column, label_column]
        self._groups: list[tuple[int, int]] = []
        starts = [0]
        for number, path in enumerate(files):
            parquet = _open_parquet(path)
            for group in range(parquet.num_row_groups):
                self._groups.append((number, group))
                starts.append(starts[-1] + parquet.metadata.row_group(group).num_rows)
        self._starts = starts
        self._cached: tuple[int, Any] | None = None

    def __len__(self) -> int:
        return self._starts[-1]

    def order(self, seed: int) -> np.ndarray:
        groups = keyed_permutation(len(self._groups), seed, "row groups of", self.split).tolist()
        return np.concatenate([np.arange(self._starts[group], self._starts[group + 1]) for group in groups])

    def sample(self, number: int) -> tuple[str, Mapping[str, bytes]]:
        group = bisect.bisect_right(self._starts, number) - 1
        image, label = self._row(group, number - self._starts[group])
        file = self._files[self._groups[group][0]]
        where = f"row {number} of the {self.split} split, in {file},"
        data = image.get("bytes") if isinstance(image, dict) else image
        if not data:
            what = "an image of 0 bytes" if data == b"" else "no image, or one outside of the Parquet files"
            raise UserError(f"{where} holds {what}; {_STORE_IMAGES}")
        extension = next((name for start, name in _SIGNATURES if data.startswith(start)), "jpg")
        if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
            extension = "webp"
        return f"{self.split}-{number:08d}", {extension: data, "cls": str(self._number(label)).encode()}

    def _number(self, label: object) -> int:
        """The label of a row, whose values were all looked at before, as a number."""
        return int(str(label)) if self.words is None else self.words.labels[class_word(str(label))]

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
        digest = hashlib.sha256(repr(self._columns).encode())
        for path in self._files:
            parquet = _open_parquet(path)
            with _readable(path):
                labels = parquet.read(columns=self._columns[1:], use_threads=False).column(0).to_pylist()
            digest.update(repr((path.name, path.stat().st_size, labels)).encode())
        return digest.hexdigest()

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


def _class_names(files: Iterable[Path], column: str) -> tuple[str, ...] | None:
    """The names of a ClassLabel feature, which the ``datasets`` library keeps in the schema's metadata; None: there are none.

    Raises UserError where files have different ones: a label would not mean the same class in all.
    """
    found: dict[tuple[str, ...], Path] = {}
    for path in files:
        metadata = _open_parquet(path).schema_arrow.metadata or {}
        try:
            names = json.loads(metadata[b"huggingface"])["info"]["features"][column]["names"]
        except (KeyError, TypeError, ValueError, RecursionError):
            continue
        if isinstance(names, list) and names:
            found.setdefault(tuple(map(str, names)), path)
    if len(found) > 1:
        (names, path), (others, other), *_ = found.items()
        pairs = zip_longest(names, others, fillvalue="no class")
        label, (ours, theirs) = next((label, pair) for label, pair in enumerate(pairs) if pair[0] != pair[1])
        raise UserError(
            f"label {label} is {ours} in {path} and {theirs} in {other}; make the files with one list of class names"
        )
    return next(iter(found), None)


COMMAND: SourceCommand = SourceCommand(
    name="parquet",
    usage="parquet SRC OUT",
    summary="image data sets of the `datasets` library",
    add_arguments=lambda parser: add_columns(parser, "image"),
    sources=lambda given: parquet_sources(given.source, given.image_column, given.label_column, given.split),
)
