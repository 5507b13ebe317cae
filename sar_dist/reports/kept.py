"""What a run kept beside its metrics for its report: lines of figures/NAME.jsonl, and images of validation samples."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, Strict, ValidationError, model_validator

from sar_dist.observe import FIGURES_FOLDER, read_records, sample_file
from sar_dist.output import warn
from sar_dist.reports.runs import ReportedRun

FIELDS = {
    "attention": ("samples", "labels", "predicted", "grid", "entropies", "components", "maps"),
    "classes": ("classes", "hardest"),
}

_Count = Annotated[int, Field(ge=0, lt=2**63)]
_Pair = Strict(False)  # JSON has lists


class _Line(BaseModel):
    model_config = ConfigDict(strict=True)

    step: _Count


class _Attention(_Line):
    samples: list[_Count] = Field(min_length=1)
    labels: list[str]
    predicted: list[str]
    grid: Annotated[tuple[_Count, _Count], _Pair]
    entropies: list[list[FiniteFloat]]
    components: list[list[_Count]]
    maps: str = Field(min_length=1)

    @model_validator(mode="after")
    def _of_every_sample(self) -> _Attention:
        if {len(self.labels), len(self.predicted), len(self.entropies), len(self.components)} != {len(self.samples)}:
            raise ValueError("not all lists have an entry for each sample")
        return self


class _Class(BaseModel):
    model_config = ConfigDict(strict=True)

    name: str
    right: _Count
    images: Annotated[int, Field(ge=1, lt=2**63)]
    taken_for: list[Annotated[tuple[str, _Count], _Pair]]
    examples: list[Annotated[tuple[_Count, str], _Pair]]


class _Classes(_Line):
    classes: _Count
    hardest: list[_Class]


_KINDS: Mapping[str, type[_Line]] = {"attention": _Attention, "classes": _Classes}


def kept_records(run: ReportedRun, name: str) -> list[dict[str, Any]]:
    """The lines of "attention" or "classes", the last one of each step, in order.

    Lines of an earlier version, which lack a field, are left out; so are those that hold something else, which is said.
    """
    file = run.path / FIGURES_FOLDER / f"{name}.jsonl"
    lines: dict[int, dict[str, Any]] = {}
    wrong = 0
    for record in read_records(file):
        if all(field in record for field in FIELDS[name]):
            try:
                lines[_KINDS[name].model_validate(record).step] = record
            except ValidationError:
                wrong += 1
    if wrong:
        _say_left_out(file, wrong)
    return [lines[step] for step in sorted(lines)]


@functools.cache  # a page asks for the same lines several times
def _say_left_out(file: Path, lines: int) -> None:
    warn(f"{file}: left out {lines} lines that are not what a run writes there")


def read_sample(run: ReportedRun, sample: int) -> bytes:
    """The image of a validation sample, as a JPEG file; nothing where it is lost."""
    file = sample_file(run.path / FIGURES_FOLDER, sample)
    return file.read_bytes() if file.is_file() else b""
