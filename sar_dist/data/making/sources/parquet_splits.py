"""Which rows of which Parquet files are of which split: by a column, or by the names of the files and their folders."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sar_dist.data.layout import (
    SplitChoice,
    called_like_splits,
    is_left_over,
    refuse_other_name,
    split_column,
    split_columns,
    split_named,
    split_of_word,
    splits_by_name,
)
from sar_dist.data.making.sources.base import unnamed_split
from sar_dist.data.making.sources.parquet_reading import FileRows, check_columns, open_parquet, read_column
from sar_dist.errors import UserError
from sar_dist.output import warn

_PARTIAL = re.compile(r"(^|/)partial-[^/]+/")
_PACKED = re.compile(r"\.parquet\.\w+$")


def find_parquet_files(root: Path) -> dict[str, Path]:
    """The Parquet files below ``root``, or ``root`` itself, by their path below the folder. Raises UserError: there is none."""
    folder = root.parent if root.is_file() else root
    there = [root] if root.is_file() else sorted(root.rglob("*"))
    files = there if root.is_file() else [path for path in there if path.suffix.lower() == ".parquet"]
    other = _other_format(root, there)
    if not files or (root.is_file() and other):
        raise UserError(f"no .parquet files in {root}{other}")
    paths = {path.relative_to(folder).as_posix(): path for path in files}
    found = {name: path for name, path in paths.items() if not any(map(is_left_over, name.split("/")))}
    partial = next((name for name in found if _PARTIAL.search(name)), None)
    if partial is not None:
        warn(
            f"{root}: {partial} and its like are the first part of a split alone, as the Hub converts large sets; the whole of it is in "
            "the set's own files"
        )
    return found


def _other_format(root: Path, files: Sequence[Path]) -> str:
    """What ``files`` are instead of Parquet files, and what to do, for the end of a message; "" where that is not known."""
    names = [path.name.lower() for path in files]
    arrow = next((name for name in names if name.endswith(".arrow")), None)
    if arrow is not None:
        return (
            f", but {arrow} as datasets.save_to_disk writes it; write Parquet files with datasets.load_from_disk({str(root)!r}), and "
            ".to_parquet('OUT/train.parquet') for each split of it"
        )
    packed = next((name for name in names if _PACKED.search(name)), None)
    if packed is not None:
        return f", but {packed}, which is compressed or not downloaded to its end; unpack it (gunzip) or fetch it again"
    if any(name.endswith(".tar") for name in names):
        return "; `make_shards.py tars` reads .tar files"
    return ""


def rows_by_split(
    root: Path, paths: Mapping[str, Path], used: Sequence[str], column: str | None, choice: SplitChoice | None
) -> dict[str, dict[str, FileRows]]:
    """The rows of each split, by the names of their files.

    Args:
        root: what messages call the set.
        paths: its files by name.
        used: columns that say something else.
        column: the one that says to which split a row belongs; "": none does; None: it is looked for, but where the names of
            files tell several splits.
        choice: the split that is to be made; every word may be the name of one then.

    Raises:
        UserError: names or columns are ambiguous, or contradict each other.
    """
    by_name = splits_by_name([*paths], str(root), choice and choice.source) if not column else {}
    if column is None and len(by_name) < 2:
        column = _find_column(root, [*paths.values()], used)
    elif column is None:
        made = ("train", "val") if choice is None else (choice.source,)
        for split in by_name.keys() & {*made}:
            _refuse_rows_of_others([paths[name] for name in by_name[split]], split, used)
    if not column:
        found = by_name or {unnamed_split(root.parent if root.is_file() else root, choice): sorted(paths)}
        return {split: {name: FileRows(paths[name]) for name in names} for split, names in found.items()}
    check_columns(paths.values(), [column])
    rows: dict[str, dict[str, FileRows]] = {}
    for name in sorted(paths):
        for split, chosen in _rows_of(paths[name], column, choice).items():
            rows.setdefault(split, {})[name] = FileRows(paths[name], None if chosen.all() else chosen)
    if choice is None:
        refuse_other_name(by_name, rows, str(root))
    return rows


def count_rows(found: Mapping[str, Mapping[str, FileRows]]) -> dict[str, int]:
    """The number of rows of each split that ``rows_by_split`` found."""
    return {
        split: sum(
            open_parquet(path).metadata.num_rows if chosen is None else int(chosen.sum())
            for path, chosen in rows.values()
        )
        for split, rows in found.items()
    }


def _rows_of(path: Path, column: str, choice: SplitChoice | None) -> dict[str, np.ndarray]:
    """Which rows of a file are of which split, by ``column``: (rows,) bool each."""
    entries = read_column(FileRows(path), column)
    if entries.null_count:
        raise UserError(
            f"{path}: {entries.null_count} of its {len(entries)} rows have no split in {column}; fill it in"
        )
    values = entries.to_pylist()
    named = {value: split_named(str(value), choice, str(path), column) for value in sorted(set(values))}
    splits = np.array([named[value] for value in values], dtype=object)
    return {split: splits == split for split in sorted({*named.values()})}


def _find_column(root: Path, files: Sequence[Path], used: Sequence[str]) -> str | None:
    """The column that says to which split the rows of all ``files`` belong."""
    entries: dict[str, set[str]] = {}
    doubtful: set[str] = set()
    for path in files:
        of_file = _entries_about_splits(path, used)
        doubtful |= {*open_parquet(path).schema_arrow.names} - of_file.keys()
        for name, values in of_file.items():
            entries.setdefault(name, set()).update(values)
    entries = {name: values for name, values in entries.items() if called_like_splits(name) or name not in doubtful}
    return split_column(entries, str(root), "name splits such as train, val and test in all of its rows")


def _refuse_rows_of_others(files: Iterable[Path], split: str, used: Sequence[str]) -> None:
    """Say which columns may say to which split a row belongs, where the names of files do.

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
                    f"{path}: its column {column} says that rows are of the split {others[0]}, but the file is of {split} by its "
                    f'name; say which of them is right, with --split-column {column}, or --split-column "" for the names of the '
                    "files"
                )
        for column in set(found.possible) - certain - said:
            said.add(column)
            warn(
                f"{path}: the column {column} may say to which split a row belongs, and is not used: the names of the files do"
            )


def _entries_about_splits(path: Path, used: Sequence[str]) -> dict[str, set[str]]:
    """The different entries, as text, of the columns that may be about splits; a long column of texts is not read for that."""
    from pyarrow import types

    parquet = open_parquet(path)
    entries: dict[str, set[str]] = {}
    for column, kind in zip(parquet.schema_arrow.names, parquet.schema_arrow.types, strict=True):
        plain = kind.value_type if types.is_dictionary(kind) else kind
        text = "string" in str(plain).partition("<")[0]
        single = text or types.is_integer(plain) or types.is_boolean(plain)
        if column in used or not single or parquet.schema_arrow.names.count(column) > 1:
            continue
        if called_like_splits(column) or (text and all(map(split_of_word, _extremes(parquet, column)))):
            entries[column] = set(map(str, read_column(FileRows(path), column).unique().to_pylist()))
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
