"""Opening Parquet files, and reading single columns of them, with what may be wrong as one line."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sar_dist.errors import UserError, text_of


class FileRows(NamedTuple):
    """A Parquet file and which of its rows are meant: (rows,) bool; None: all."""

    path: Path
    chosen: np.ndarray | None = None


def open_parquet(path: Path) -> Any:
    """A ``pyarrow.parquet.ParquetFile``. Raises UserError, also where pyarrow is not installed."""
    try:
        from pyarrow import ArrowException, parquet
    except ImportError:
        raise UserError("reading Parquet files needs pyarrow: pip install 'sar_dist[parquet]'") from None
    try:
        if not path.is_file():
            raise OSError("it is a pipe, a device or a folder, not a file")
        return parquet.ParquetFile(path)
    except (OSError, ArrowException) as error:
        raise UserError(f"cannot read {path}: {text_of(error)}") from None


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Damage inside a Parquet file as a UserError."""
    from pyarrow import ArrowException

    try:
        yield
    except (OSError, ArrowException) as error:
        raise UserError(f"cannot read {path}: {text_of(error)}; restore it") from None


def read_column(rows: FileRows, column: str) -> Any:
    """The entries of a column in the rows that are meant, as an Arrow array in chunks. Raises UserError."""
    parquet = open_parquet(rows.path)
    with readable(rows.path):
        entries = parquet.read(columns=[column], use_threads=False).column(0)
        return entries if rows.chosen is None else entries.filter(rows.chosen)


def check_columns(files: Iterable[Path], columns: Iterable[str]) -> None:
    """Raise UserError unless every file has each of the columns once."""
    for path in files:
        names = open_parquet(path).schema_arrow.names
        for column in columns:
            if column not in names:
                raise UserError(
                    f"{path} has no column {column!r}, only {', '.join(names)}; name them with --image-column, --label-column and "
                    "--split-column"
                )
            if names.count(column) > 1:
                raise UserError(f"{path} has {names.count(column)} columns {column!r}; rename all but one")


def refuse_copies(files: Iterable[Path]) -> None:
    """Raise UserError where two files of a folder are the same to the last byte: every sample would be there twice."""
    by_size: dict[tuple[Path, int], list[Path]] = {}
    for path in files:
        by_size.setdefault((path.parent, path.stat().st_size), []).append(path)
    for paths in by_size.values():
        first: dict[bytes, Path] = {}
        for path in paths if len(paths) > 1 and open_parquet(paths[0]).metadata.num_rows else ():
            with path.open("rb") as file:
                other = first.setdefault(hashlib.file_digest(file, "sha256").digest(), path)
            if other != path:
                raise UserError(
                    f"{other} and {path} are the same to the last byte: every sample would be there twice; move the copy away"
                )
