"""Reading tables: comma, tab, semicolon or bar between the fields of a line, or an object of JSON on each line."""

from __future__ import annotations

import csv
import io
import itertools
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from sar_dist.errors import UserError, shortened
from sar_dist.files import read_regular

_SEPARATORS = (",", "\t", ";", "|")
_JSON_LINES = (".jsonl", ".ndjson")
_NAME_COLUMNS = "say how with --image-column, --label-column and --split-column"
_EXCEL_LINE = re.compile(r'\A"?sep=."?(?=[\r\n])')  # by which Excel knows a table's separator; the line stays, empty


class TableRows(NamedTuple):
    """The names of a table's columns, the rows by these names, and the number of the line that each row is on."""

    header: list[str]
    lines: list[int]
    rows: list[dict[str, str]]


def read_rows(table: Path, wanted: Sequence[str], advice: str = _NAME_COLUMNS) -> TableRows:
    """The rows of a table that has the columns ``wanted``; the separator is the one that gives them.

    Spaces around a field do not count, and a field that is missing is empty. Of JSON (``metadata.jsonl``), each line is a
    row. ``advice`` is what to do where a column is missing. Raises UserError naming the line.
    """
    text = _text_of(table)
    header, content = _json_lines(table, text) if table.suffix.lower() in _JSON_LINES else _lines(table, text, wanted)
    _check_header(table, header, wanted, advice)
    if not content:
        raise UserError(f"{table} lists no images: there is nothing below its header line")
    for line, fields in content:
        if len(fields) > len(header):
            raise UserError(f"{table}, line {line}: {len(fields)} fields, but the header line has {len(header)}")
    rows = [dict(itertools.zip_longest(header, fields, fillvalue="")) for _, fields in content]
    return TableRows(header, [line for line, _ in content], rows)


def _lines(table: Path, text: str, wanted: Sequence[str]) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """The header's fields, and those of each line below it with the line's number."""
    separator = _separator(table, text, wanted)
    try:
        # Strict: a quote that is not closed would swallow all rows behind it.
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
        content = [(reader.line_num, [field.strip() for field in fields]) for fields in reader if fields]
    except csv.Error as error:
        raise UserError(f"cannot read {table}: {error}; correct it, or write it anew as a CSV table") from None
    return (content[0][1], content[1:]) if content else ([], [])


def _json_lines(table: Path, text: str) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """As ``_lines``, of an object on each line; what is no text becomes its JSON, and null an empty field."""
    objects: list[tuple[int, dict[str, object]]] = []
    for line, part in enumerate(text.split("\n"), start=1):
        if not part.strip():
            continue
        try:
            content = json.loads(part)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{table}, line {line}: {error}; each line must be an object of JSON") from None
        if not isinstance(content, dict):
            raise UserError(f"{table}, line {line}: {shortened(part, 40)} is no object of JSON, as each line must be")
        objects.append((line, content))
    header = [*dict.fromkeys(name for _, content in objects for name in content)]
    return header, [(line, [_field(content.get(name)) for name in header]) for line, content in objects]


def _field(value: object) -> str:
    if isinstance(value, str):
        return value.strip()
    return "" if value is None else json.dumps(value)


def _text_of(table: Path) -> str:
    try:
        text = read_regular(table).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(
            f"cannot read {table}: it is not UTF-8 ({error.reason}); save it as UTF-8, not compressed, and no workbook"
        ) from None
    except OSError as error:
        raise UserError(f"cannot read {table}: {error}") from None
    if "\0" in text:
        raise UserError(f"cannot read {table}: it holds zero bytes, as UTF-16 does; save it as UTF-8")
    return _EXCEL_LINE.sub("", text)


def _separator(table: Path, text: str, wanted: Sequence[str]) -> str:
    """The separator with which the header line has the ``wanted`` columns; the usual one for the file's name if none has."""
    usual = "\t" if table.suffix.lower() == ".tsv" else ","
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
