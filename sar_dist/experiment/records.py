"""A finished run as one small file: what it measured, its curves, its recipe, and nothing of the machine's folders.

An experiment's statistics and figures follow from these files alone, which are small enough to be committed, and an
experiment that is continued elsewhere counts them as finished runs.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from sar_dist.config import load_config
from sar_dist.errors import UserError
from sar_dist.experiment.evaluations import evaluation_result
from sar_dist.experiment.runs import check_same_run, identity_of, run_folder
from sar_dist.experiment.specification import Arm, Experiment
from sar_dist.files import make_folder, parse_json, remove_leftovers, write_durably
from sar_dist.observe import quantities_in
from sar_dist.reports import ReportedRun, load_runs
from sar_dist.transfer import Result
from sar_dist.validation import one_line

# Of the training's numbers those that are drawn; of the validation's all.
_PREFIXES = ("train", "val")
_LEFT_OUT = ("prefix", "time")

Columns = dict[str, list[float | None]]


class _Stored(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class RecordedEvaluation(_Stored):
    """What an evaluation found, without the settings and tables of its result file."""

    task: str
    primary: str
    partial: bool
    metrics: dict[str, float]
    baselines: dict[str, dict[str, float]]
    samples: int
    skipped: int
    data: dict[str, str] = Field(description="split -> fingerprint of its content")

    @classmethod
    def of(cls, result: Result) -> RecordedEvaluation:
        """The part of a result that is kept."""
        return cls(
            task=result.task,
            primary=result.primary,
            partial=result.partial,
            metrics=result.metrics,
            baselines=result.baselines,
            samples=result.data.samples,
            skipped=result.data.skipped,
            data=result.data.fingerprints,
        )


class RunRecord(_Stored):
    """A finished run of an experiment."""

    schema_version: Literal["sar_dist-experiment-run-1"] = "sar_dist-experiment-run-1"
    experiment: str
    arm: str
    seed: int
    weights: str | None = Field(description="sha256 of the trained weights; None where nothing was evaluated")
    made_with: dict[str, Any] = Field(description="commit, device and versions of the training")
    recipe: dict[str, Any] = Field(description="the configuration, as far as it decides what the run finds")
    evaluations: dict[str, RecordedEvaluation]
    curves: dict[str, Columns] = Field(description="train and val -> name -> values, one for each record of the log")

    def run(self, file: Path) -> ReportedRun:
        """The run as the charts take it."""
        records = [
            {"prefix": prefix, **{name: value for name, value in zip(columns, row, strict=True) if value is not None}}
            for prefix, columns in self.curves.items()
            for row in zip(*columns.values(), strict=True)
        ]
        return ReportedRun(f"{self.arm}_seed{self.seed}", file, self.recipe, self.made_with, records, {})

    def figures(self) -> dict[str, float]:
        """Every number by which two repetitions of the run would differ: the last validation, and the evaluations."""
        last = {f"validation {name}": values[-1] for name, values in self.curves.get("val", {}).items()}
        found = {name: value for name, value in last.items() if value is not None}
        for name, evaluation in self.evaluations.items():
            found |= {f"{name}: {metric}": value for metric, value in evaluation.metrics.items()}
        return found


def record_of(experiment: Experiment, arm: Arm, seed: int, out: Path) -> RunRecord:
    """The record of a finished run in an experiment's folder, with the evaluations that are done.

    Raises:
        UserError: a file of it is damaged, or of another configuration or evaluation than the experiment says.
    """
    name = experiment.run_name(arm, seed)
    folder = run_folder(out, name)
    run = load_runs([folder])[0]
    asked = experiment.run_config(arm, seed, folder.parent)
    check_same_run(load_config(folder / "config.json").model_dump(), asked.model_dump(), folder)
    found = {each.name: evaluation_result(out, name, each, seed) for each in experiment.evaluations}
    results = {evaluation: result for evaluation, result in found.items() if result is not None}
    packages = run.environment.get("packages", {})
    return RunRecord(
        experiment=experiment.name,
        arm=arm.name,
        seed=seed,
        weights=next((result.model.fingerprint for result in results.values()), None),
        made_with={
            **{
                key: run.environment.get(key) for key in ("git_commit", "git_changes", "device", "world_size", "python")
            },
            **{key: packages.get(key) for key in ("torch", "timm")},
        },
        recipe=identity_of(run.config),
        evaluations={evaluation: RecordedEvaluation.of(result) for evaluation, result in results.items()},
        curves=_columns(run),
    )


def _columns(run: ReportedRun) -> dict[str, Columns]:
    quantities = quantities_in(run.records)
    drawn = {each.key for each in quantities if each.prefix == "train" and each.experiment} | {"step", "epoch"}
    known = {each.key for each in quantities if each.prefix == "train"}
    curves = {}
    for prefix in _PREFIXES:
        records = [record for record in run.records if record["prefix"] == prefix]
        names = dict.fromkeys(name for record in records for name in record if name not in _LEFT_OUT)
        # A loss that only the log knows is how the charts learn of a term from outside the package.
        kept = [
            name
            for name in names
            if prefix != "train" or name in drawn or (name.startswith("loss_") and name not in known)
        ]
        curves[prefix] = {name: [record.get(name) for record in records] for name in kept}
    return curves


def record_file(folder: Path, arm: str, seed: int) -> Path:
    """Where a run's record lies in a folder of them."""
    return folder / f"{arm}-seed{seed}.json"


def recorded_seeds(folder: Path, arm: str) -> set[int]:
    """The seeds of an arm that a folder has records of."""
    pattern = re.compile(re.escape(arm) + r"-seed(\d+)\.json")
    found = (pattern.fullmatch(file.name) for file in folder.glob("*.json"))
    return {int(match[1]) for match in found if match}


def read_record(folder: Path, experiment: Experiment, arm: Arm, seed: int) -> RunRecord | None:
    """A run's record; None where the folder has none.

    Raises:
        UserError: it is damaged, or of something else than its name says.
    """
    file = record_file(folder, arm.name, seed)
    if not file.exists():
        return None
    wrong = f"{file} is not the record of a run"
    try:
        content = parse_json(file.read_bytes())
    except (OSError, ValueError) as error:
        raise UserError(f"{wrong}: {error}") from error
    with one_line(wrong, RunRecord):
        record = RunRecord.model_validate(content)
    asked = (experiment.name, arm.name, seed)
    if (record.experiment, record.arm, record.seed) != asked:
        raise UserError(
            f"{file} is of {record.experiment}, {record.arm}, seed {record.seed}: not of {', '.join(map(str, asked))}"
        )
    return record


def write_record(record: RunRecord, folder: Path) -> None:
    """Write a run's record; numbers with all their digits, so that a repetition can be compared bit for bit."""
    make_folder(folder)
    content = record.model_dump(mode="python")
    lines = [f"{json.dumps(key)}: {_json(value)}" for key, value in content.items()]
    file = record_file(folder, record.arm, record.seed)
    remove_leftovers(file)
    write_durably(file, "{\n" + ",\n".join(lines) + "\n}\n")


def _json(value: object) -> str:
    """One line for a value; for a mapping of mappings one line each."""
    if isinstance(value, Mapping) and value and all(isinstance(each, Mapping) for each in value.values()):
        return "{\n" + ",\n".join(f" {json.dumps(key)}: {json.dumps(each)}" for key, each in value.items()) + "\n}"
    return json.dumps(value)


def joined(kept: RunRecord, made: RunRecord, place: Path) -> RunRecord:
    """One record of a run that is in the records and in the experiment's folder as well.

    Raises:
        UserError: the two are not the same to the last bit where they measured the same.
    """
    before, after = kept.figures(), made.figures()
    for name in before.keys() & after.keys():
        # A number that is not finite is equal to itself here.
        if repr(before[name]) != repr(after[name]):
            raise UserError(
                f"{place} says {name} = {before[name]!r}, the run in --out {after[name]!r}: the run did not repeat bit "
                "for bit (another machine, number of threads or version?); remove one of the two"
            )
    evaluations = {**kept.evaluations, **made.evaluations}
    return made.model_copy(update={"evaluations": evaluations, "weights": made.weights or kept.weights})
