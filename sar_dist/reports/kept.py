"""What a run kept beside its metrics for its report: lines of figures/NAME.jsonl, and images of validation samples."""

from __future__ import annotations

from typing import Any

from sar_dist.observe import FIGURES_FOLDER, read_records, sample_file
from sar_dist.reports.runs import ReportedRun

FIELDS = {
    "attention": ("samples", "labels", "predicted", "grid", "entropies", "components", "maps"),
    "classes": ("classes", "hardest"),
}


def kept_records(run: ReportedRun, name: str) -> list[dict[str, Any]]:
    """The lines of "attention" or "classes", the last one of each step, in order; without what lacks a field."""
    lines: dict[int, dict[str, Any]] = {}
    for record in read_records(run.path / FIGURES_FOLDER / f"{name}.jsonl"):
        if all(field in record for field in FIELDS[name]):
            lines[int(record["step"])] = record
    return [lines[step] for step in sorted(lines)]


def read_sample(run: ReportedRun, sample: int) -> bytes:
    """The image of a validation sample, as a JPEG file; nothing where it is lost."""
    file = sample_file(run.path / FIGURES_FOLDER, sample)
    return file.read_bytes() if file.is_file() else b""
