"""The result file of an evaluation: what was measured, of what, how, and with which software."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, model_validator

from sar_dist.data.shards import LABEL_EXTENSION
from sar_dist.errors import UserError
from sar_dist.files import atomic_write, read_regular
from sar_dist.validation import one_line

RESULT_FILE = "result.json"
RESULTS_FILE = "results.jsonl"


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class MeasuredModel(_Record):
    """The backbone: what was typed, what it stands for, sha256 of its weights."""

    spec: str
    description: str
    fingerprint: str


class MeasuredData(_Record):
    """The data: its folder's name, a fingerprint of each split, number of scored samples, those that were unreadable."""

    name: str
    fingerprints: dict[str, str]
    samples: int
    skipped: int


class Result(_Record):
    """Content of ``result.json``. Percentages are in percent; ``partial`` says that ``limit`` left samples out."""

    schema_version: Literal["sar_dist-transfer-1"] = "sar_dist-transfer-1"
    task: str
    label: str
    primary: str
    metrics: dict[str, float]
    baselines: dict[str, dict[str, float]]
    partial: bool
    model: MeasuredModel
    data: MeasuredData
    settings: dict[str, Any]
    protocol: dict[str, Any]
    tables: dict[str, Any]
    environment: dict[str, Any]
    seconds: float

    @model_validator(mode="after")
    def _primary_exists(self) -> Result:
        if self.primary not in self.metrics:
            raise ValueError(f"the primary metric {self.primary!r} is not among {sorted(self.metrics)}")
        return self

    def identity(self) -> dict[str, Any]:
        """What makes two evaluations the same; the number of processes is not part of it."""
        return identity(self.task, self.settings, self.model.fingerprint, self.data.fingerprints)


def identity(task: str, settings: dict[str, Any], model: str, data: dict[str, str]) -> dict[str, Any]:
    """What an evaluation is of: task, settings (without those that only say how it is run), weights, data."""
    # Results from before there was a choice have no ``label``.
    left_out = [("workers", settings.get("workers")), ("label", LABEL_EXTENSION)]
    return {
        "task": task,
        "settings": {name: value for name, value in settings.items() if (name, value) not in left_out},
        "model": model,
        "data": data,
    }


def read_result(file: Path) -> Result:
    """Read and check a result file. Raises UserError."""
    wrong = f"{file} is not a result of tools/transfer_eval.py"
    try:
        content = read_regular(file)
    except OSError as error:
        raise UserError(f"{wrong}: {error.strerror}") from error
    with one_line(wrong, Result):
        return Result.model_validate_json(content)


def write_result(result: Result, folder: Path) -> Path:
    """Write ``folder/result.json``, and append the same as a line to ``results.jsonl`` beside the folder."""
    file = folder / RESULT_FILE
    with atomic_write(file) as stream:
        stream.write((result.model_dump_json(indent=2) + "\n").encode())
    with (folder.parent / RESULTS_FILE).open("a") as lines:
        lines.write(json.dumps(result.model_dump(mode="json")) + "\n")
    return file
