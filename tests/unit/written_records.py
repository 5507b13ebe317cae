"""Records of a run as training writes them, without a training."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sar_dist.observe.records import append_line, encode_line, metrics_line


def append_record(path: Path, step: int, prefix: str, time: float, values: Mapping[str, float]) -> None:
    """Append a record to a metrics.jsonl."""
    append_line(path, metrics_line(step, prefix, time, values))


def append_details(path: Path, record: Mapping[str, Any]) -> None:
    """Append a record to a file of ``figures/``."""
    append_line(path, encode_line(record))
