"""metrics.jsonl: one JSON object per line, appended while training, cut back when training resumes from a checkpoint.

A record is ``{"step": int, "prefix": str, "time": float, NAME: number, ...}``: the optimizer step it belongs to, the
part of the program it comes from ("train", "val", ...), seconds since 1970, then the metrics. Numbers that JSON does
not have are written as the strings "NaN", "Infinity" and "-Infinity", which ``float()`` reads back, so that every line
is valid JSON for any reader.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from sar_dist.files import atomic_write, parse_json, read_regular

RESERVED = frozenset({"step", "prefix", "time"})
_MOST_STEPS = 1 << 53  # whole numbers to which a float is exact
# Up to here a square is a float too: what is near the end of their range cannot be drawn, and no metric is.
_LARGEST = 1e150


def json_number(value: float) -> float | str:
    """``value`` itself when it is finite, otherwise "NaN", "Infinity" or "-Infinity"."""
    value = float(value)
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def metrics_line(step: int, prefix: str, time: float, values: Mapping[str, float]) -> bytes:
    """One record of metrics as a line. Raises ValueError: a metric is called "step", "prefix" or "time"."""
    if taken := RESERVED & values.keys():
        raise ValueError(f"a metric cannot be called {min(taken)!r}: every record has this key already")
    record = {"step": step, "prefix": prefix, "time": round(time, 3)}
    record |= {name: json_number(value) for name, value in values.items()}
    return encode_line(record)


def encode_line(record: Mapping[str, Any]) -> bytes:
    """A record, which has a "step", as a line."""
    return json.dumps(record, allow_nan=False).encode() + b"\n"


def append_line(path: Path, line: bytes) -> None:
    """Append a line, and hand it to the operating system before returning.

    The file is opened for each line, so that a disk that comes back after a failure is used again. A line that could not be
    written whole is taken back.

    Raises:
        OSError: the line could not be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab", buffering=0) as file:
        size = file.tell()
        written = 0
        try:
            written = file.write(line) or 0
        finally:
            if 0 < written < len(line):
                file.truncate(size)
        if written < len(line):
            raise OSError(f"{path}: wrote {written} of {len(line)} bytes")


def _read_line(line: bytes) -> dict[str, float | str] | None:
    """The record on one line; None for a line torn by a process that was killed while writing it."""
    try:
        record = parse_json(line)
    except ValueError:
        return None
    step = record.get("step") if isinstance(record, dict) else None
    return record if type(step) is int and 0 <= step < _MOST_STEPS else None


def read_records(path: Path) -> Iterator[dict[str, float | str]]:
    """The records of a file of lines, in order, skipping torn ones. A missing file has none."""
    if not path.exists():
        return
    for line in read_regular(path).splitlines():
        if (record := _read_line(line)) is not None:
            yield record


def read_metrics(path: Path) -> Iterator[dict[str, Any]]:
    """The records of a metrics.jsonl with a prefix and nothing but numbers, in order; others are torn lines too."""
    yield from filter(_has_metrics, read_records(path))


def damaged_lines(path: Path) -> list[int]:
    """Numbers, from 1, of the lines that ``read_metrics`` leaves out, but for a last one that is still being written."""
    if not path.exists():
        return []
    lines = read_regular(path).splitlines(keepends=True)
    written = lines[:-1] if lines and not lines[-1].endswith(b"\n") else lines
    records = ((number, _read_line(line)) for number, line in enumerate(written, start=1) if line.strip())
    return [number for number, record in records if record is None or not _has_metrics(record)]


def _has_metrics(record: Mapping[str, Any]) -> bool:
    values = (value for name, value in record.items() if name != "prefix")
    return isinstance(record.get("prefix"), str) and all(map(_is_number, values))


def last_step(path: Path) -> int | None:
    """The latest step of which a metrics.jsonl has a record; None: it has none."""
    return max((int(record["step"]) for record in read_metrics(path)), default=None)


def _is_number(value: Any) -> bool:
    return value in ("NaN", "Infinity", "-Infinity") or (type(value) in (int, float) and abs(value) <= _LARGEST)


def truncate_records(path: Path, step: int, again: Collection[str] = ()) -> int:
    """Drop the records of later steps than ``step``, and torn lines; returns how many lines were dropped.

    Args:
        path: the file, or none.
        step: optimizer steps done.
        again: prefixes whose records of ``step`` itself are dropped too.

    The file is replaced in one move, so that it is whole whenever the process is killed.

    Raises:
        CannotWrite: the file could not be rewritten; it is unchanged then.
    """
    if not path.exists():
        return 0
    lines = read_regular(path).splitlines(keepends=True)
    kept = []
    for line in lines:
        record = _read_line(line)
        if record is None or not line.endswith(b"\n") or int(record["step"]) > step:
            continue
        if int(record["step"]) < step or record.get("prefix") not in again:
            kept.append(line)
    if len(kept) < len(lines):
        with atomic_write(path) as file:
            file.writelines(kept)
    return len(lines) - len(kept)
