"""Reading tables: comma, tab, semicolon or bar between the fields of a line, or objects of JSON, one a line or in a list."""

from __future__ import annotations

import csv
import gzip
import io
import itertools
import json
import re
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from sar_dist.errors import UserError, shortened
from sar_dist.files import read_regular

_SEPARATORS = (",", "\t", ";", "|")
_JSON_LINES = (".jsonl", ".ndjson")
_GZIP = b"\x1f\x8b"
_NO_TABLES = (
    (b"PK\x03\x04", "a workbook or a zip archive, not a table as text; save it as CSV, or unpack it"),
    (b"PAR1", "a Parquet file; `make_shards.py parquet` reads it"),
    (b"BZh", "compressed with bzip2; unpack it with bunzip2"),
    (b"\xfd7zXZ\0", "compressed with xz; unpack it with unxz"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd; unpack it with unzstd"),
)
_ONE = frozenset({"1", "1.0"})
_BINARY = _ONE | {"0", "0.0"}
_NAME_COLUMNS = "say how with --image-column, --label-column and --split-column"
_EXCEL_LINE = re.compile(r'\A"?sep=."?(?=[\r\n])')  # by which Excel knows a table's separator; the line stays, empty


# The names of the columns, and of each row the number of its line and its fields.
_Content = tuple[list[str], list[tuple[int, list[str]]]]


class TableRows(NamedTuple):
    """The names of a table's columns, the rows by these names, and the number of the line that each row is on."""

    header: list[str]
    lines: list[int]
    rows: list[dict[str, str]]


def read_rows(table: Path, wanted: Sequence[str], advice: str = _NAME_COLUMNS) -> TableRows:
    """The rows of a table that has the columns ``wanted``; the separator is the one that gives them.

    Spaces around a field do not count, and a field that is missing is empty. Of JSON (``metadata.jsonl``), each line is a
    row, or each object of a list. The file may be compressed with gzip. ``advice`` is what to do where a column is missing. Raises UserError naming the line.
    """
    text = text_of_table(table)
    reader = _json_reader(table, text)
    header, content = _lines(table, text, wanted) if reader is None else reader(table, text)
    rows = [dict(zip(header, fields, strict=False)) for _, fields in content]
    _check_header(table, header, wanted, f"{advice}{_one_hot_advice(header, rows)}")
    if not content:
        raise UserError(f"{table} lists no images: there is nothing below its header line")
    for line, fields in content:
        if len(fields) > len(header):
            raise UserError(f"{table}, line {line}: {len(fields)} fields, but the header line has {len(header)}")
    rows = [dict(itertools.zip_longest(header, fields, fillvalue="")) for _, fields in content]
    return TableRows(header, [line for line, _ in content], rows)


def _one_hot_advice(header: Sequence[str], rows: Sequence[dict[str, str]]) -> str:
    """How to read a table whose columns are classes, with a 1 in one of them in each row."""
    binary = [name for name in header if rows and all(row.get(name) in _BINARY for row in rows)]
    single = all(sum(row[name] in _ONE for name in binary) == 1 for row in rows)
    if len(binary) < 2 or not single:
        return ""
    return f"; if a 1 says of which class a row is, give --label-column {shortened(','.join(binary), 200)}"


def _json_reader(table: Path, text: str) -> Callable[[Path, str], _Content] | None:
    """What reads a table of JSON; None: it is none."""
    endings = [suffix.lower() for suffix in table.suffixes if suffix.lower() != ".gz"]
    ending = endings[-1] if endings else ""
    if ending in _JSON_LINES:
        return _json_lines
    if ending == ".json":
        return _json_list if text.lstrip().startswith("[") or _is_json(text) else _json_lines
    return None


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _lines(table: Path, text: str, wanted: Sequence[str]) -> _Content:
    """The header's fields, and those of each line below it with the line's number."""
    separator = _separator(table, text, wanted)
    try:
        # Strict: a quote that is not closed would swallow all rows behind it.
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
        content = [(reader.line_num, [field.strip() for field in fields]) for fields in reader if fields]
    except csv.Error as error:
        raise UserError(f"cannot read {table}: {error}; correct it, or write it anew as a CSV table") from None
    return (content[0][1], content[1:]) if content else ([], [])


def _json_lines(table: Path, text: str) -> _Content:
    """As ``_lines``, of an object on each line; what is no text becomes its JSON, and null an empty field."""
    objects: list[tuple[int, dict[str, object]]] = []
    for line, part in enumerate(text.split("\n"), start=1):
        if not part.strip():
            continue
        try:
            content = json.loads(part, object_pairs_hook=_once)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{table}, line {line}: {error}; each line must be an object of JSON") from None
        if not isinstance(content, dict):
            raise UserError(f"{table}, line {line}: {shortened(part, 40)} is no object of JSON, as each line must be")
        objects.append((line, content))
    return _fields_of(objects)


def _json_list(table: Path, text: str) -> _Content:
    """As ``_json_lines``, of a list of objects; a row's number stands for its line."""
    try:
        content = json.loads(text, object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise UserError(f"cannot read {table}: {error}; a table of JSON is a list of objects, one a row") from None
    if not isinstance(content, list) or not all(isinstance(row, dict) for row in content):
        raise UserError(
            f"{table} holds {shortened(text.strip(), 40)}; a table of JSON is a list of objects, one for each image, or has one on "
            "each line"
        )
    return _fields_of([*enumerate(content, start=1)])


def _fields_of(objects: Sequence[tuple[int, dict[str, object]]]) -> _Content:
    header = [*dict.fromkeys(name for _, content in objects for name in content)]
    return header, [(line, [_field(content.get(name)) for name in header]) for line, content in objects]


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """An object of JSON, in which Python would let a later entry replace an earlier one. Raises ValueError."""
    content = dict(pairs)
    if len(content) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} is there twice")
    return content


def _field(value: object) -> str:
    if isinstance(value, str):
        return value.strip()
    return "" if value is None else json.dumps(value)


def text_of_table(table: Path) -> str:
    """The text of a table's file, which may be compressed with gzip. Raises UserError, with what to do about other files."""
    try:
        data = read_regular(table)
        if data.startswith(_GZIP):
            data = gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"cannot read {table}: {error}") from None
    for magic, what in _NO_TABLES:
        if data.startswith(magic):
            raise UserError(f"{table} is {what}")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(
            f"cannot read {table}: it is not UTF-8 ({error.reason}); save it as UTF-8, not compressed, and no workbook"
        ) from None
    if "\0" in text:
        raise UserError(f"cannot read {table}: it holds zero bytes, as UTF-16 does; save it as UTF-8")
    return _EXCEL_LINE.sub("", text)


def _separator(table: Path, text: str, wanted: Sequence[str]) -> str:
    """The separator with which the header line has the ``wanted`` columns; the usual one for the file's name if none has."""
    usual = "\t" if ".tsv" in map(str.lower, table.suffixes) else ","
    for separator in (usual, *_SEPARATORS):
        try:
            lines = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
            header = next((fields for fields in lines if fields), [])
        except csv.Error:
            continue
        if {field.strip() for field in header} >= set(wanted):
            return separator
    return usual


def _check_header(table: Path, header: Sequence[str], wanted: Sequence[str], advice: str) -> None:
    if len(header) == 1 and len(header[0].split()) > 1 and {*header[0].split()} >= {*wanted}:
        raise UserError(
            f"{table} has blanks between its columns; write commas or tabs, or leave out its first line, and `make_shards.py lists` "
            "reads it, with the image first and its label behind it"
        )
    for name in wanted:
        if name not in header:
            raise UserError(
                f"{table} has no column {name!r}, only {shortened(', '.join(header)) or 'no header line'}; its first line must "
                f"name the columns: {advice}"
            )
    if len(set(wanted)) < len(wanted):
        raise UserError(
            f"{table}: the columns of image, label and split must be different ones, not {', '.join(wanted)}"
        )
    for name in wanted:
        if header.count(name) > 1:
            raise UserError(f"{table} has {header.count(name)} columns {name!r}; rename all but one")


def with_one_hot_label(content: TableRows, table: Path, classes: Sequence[str], name: str) -> TableRows:
    """The rows with a column ``name`` that says which of the columns ``classes`` holds a 1; empty where all are.

    Raises:
        UserError: a row has not one 1 among zeros there.
    """
    for line, row in zip(content.lines, content.rows, strict=True):
        if not any(row[column] for column in classes):
            row[name] = ""  # test images have no label, and need none where they are not used
            continue
        ones = [column for column in classes if row[column] in _ONE]
        if len(ones) != 1 or not all(row[column] in _BINARY for column in classes):
            raise UserError(
                f"{table}, line {line}: {len(ones)} of the columns {shortened(', '.join(classes), 60)} hold a 1, expected one, and 0 in "
                "the others; take such rows out"
            )
        row[name] = ones[0]
    return content
