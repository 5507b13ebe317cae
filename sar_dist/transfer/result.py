"""The result file of an evaluation: what was measured, of what, how, and with which software."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from sar_dist.data.shards import LABEL_EXTENSION
from sar_dist.errors import UserError
from sar_dist.files import atomic_write, read_regular
from sar_dist.setting_trees import differences
from sar_dist.validation import one_line

RESULT_FILE = "result.json"
RESULTS_FILE = "results.jsonl"
_PREPARATION = "preparation"


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class MeasuredModel(_Record):
    """The backbone: what was typed, what it stands for, sha256 of its weights."""

    spec: str = Field(description="what `--model` was")
    description: str = Field(description="what that stands for: the run and its step, a file, a timm model")
    fingerprint: str = Field(description="sha256 of all weights; a run, its export and a copy have the same")
    preparation: dict[str, Any] | None = Field(
        None,
        description="what its numbers depend on beside the weights: architecture, input size, and how images are resized, cropped and "
        "normalised; null in results of earlier versions",
    )


class MeasuredData(_Record):
    """The data: its folder's name, a fingerprint of each split, number of scored samples, those that were unreadable."""

    name: str = Field(description="name of the data set's folder")
    fingerprints: dict[str, str] = Field(description="split -> fingerprint of its content")
    samples: int = Field(description="samples that the metrics are of")
    skipped: int = Field(description="those of them that could not be read")


class Result(_Record):
    """Content of ``result.json``. Percentages are in percent; ``partial`` says that ``limit`` left samples out."""

    schema_version: Literal["sar_dist-transfer-1"] = "sar_dist-transfer-1"
    task: str = Field(description="name of the task")
    label: str = Field(
        description="name of the result's folder: the task, its variant, and the data where they are unusual"
    )
    primary: str = Field(description="the one of `metrics` that a table quotes")
    metrics: dict[str, float] = Field(description="name -> value; percent unless the name says otherwise")
    baselines: dict[str, dict[str, float]] = Field(description="name, such as `chance` -> metric -> value")
    partial: bool = Field(description="whether `limit` left samples out")
    model: MeasuredModel = Field(description="the backbone")
    data: MeasuredData = Field(description="the data set")
    settings: dict[str, Any] = Field(description="the task's settings, all of them")
    protocol: dict[str, Any] = Field(description="everything else that decides the numbers")
    tables: dict[str, Any] = Field(description="further values, such as the score of each class")
    environment: dict[str, Any] = Field(description="versions, hardware and command of the evaluation")
    seconds: float = Field(description="time of the evaluation")

    @model_validator(mode="after")
    def _primary_exists(self) -> Result:
        if self.primary not in self.metrics:
            raise ValueError(f"the primary metric {self.primary!r} is not among {sorted(self.metrics)}")
        return self

    def identity(self) -> dict[str, Any]:
        """What makes two evaluations the same; the number of processes is not part of it."""
        model = self.model
        return identity(
            self.task, self.settings, model.fingerprint, self.data.fingerprints, model.spec, model.preparation
        )


def identity(
    task: str,
    settings: dict[str, Any],
    model: str,
    data: dict[str, str],
    spec: str = "",
    preparation: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """What an evaluation is of: task, settings (without those that only say how it is run), weights and how they are used, data.

    Of ``timm:NAME:FILE`` NAME too: the same weights compute something else in another architecture, or on images that were normalised
    by other numbers.
    """
    kind, _, named = spec.partition(":")
    name, is_file, _ = named.partition(":")
    architecture = {"architecture": name} if kind == "timm" and is_file else {}
    # Results from before there was a choice have no ``label``.
    left_out = [("workers", settings.get("workers")), ("label", LABEL_EXTENSION)]
    return {
        "task": task,
        "settings": {name: value for name, value in settings.items() if (name, value) not in left_out},
        "model": model,
        "data": data,
        **architecture,
        **({} if preparation is None else {_PREPARATION: preparation}),
    }


def identity_differences(found: dict[str, Any], wanted: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Dotted key -> (found, wanted) of what differs; where one is of an earlier version, that did not know the preparation, not there."""
    both = [dict(found), dict(wanted)]
    if not all(_PREPARATION in each for each in both):
        for each in both:
            each.pop(_PREPARATION, None)
    return differences(*both)


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
    list_result(result, folder)
    return file


def check_list(folder: Path) -> None:
    """Raise UserError if ``list_result`` could not write, which would be found only after everything is computed."""
    file = folder.parent / RESULTS_FILE
    if os.path.lexists(file) and not (file.is_file() and os.access(file, os.R_OK | os.W_OK)):
        raise UserError(f"{file} is no file that can be written; move it away, or give another --out")


def list_result(result: Result, folder: Path) -> None:
    """Append the result in ``folder`` to ``results.jsonl`` beside it, unless it is there already, as after a kill in between.

    Raises:
        OSError: the file cannot be read or written.
    """
    file = folder.parent / RESULTS_FILE
    line = json.dumps(result.model_dump(mode="json")).encode()
    listed = file.read_bytes() if file.exists() else b""
    if line not in listed.splitlines():
        torn = b"\n" if listed and not listed.endswith(b"\n") else b""
        with file.open("ab") as lines:
            lines.write(torn + line + b"\n")
