"""What a run directory tells about a finished, or unfinished, run: configuration, curves, final figures, transfer."""

from __future__ import annotations

import json
import math
import re
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field, FiniteFloat, TypeAdapter

from sar_dist.errors import UserError
from sar_dist.files import parse_json, read_regular
from sar_dist.observe import damaged_lines, quantities_in, read_metrics
from sar_dist.output import warn
from sar_dist.quantities import Quantity, SummingUp
from sar_dist.setting_trees import leaves
from sar_dist.transfer import RESULT_FILE, Result, read_result
from sar_dist.validation import one_line

# As ``sar_dist.models`` describes the weights of a run, and of its export.
_TRAINED = re.compile(
    r"(?:.* \([^()]*\), run (?P<exported>.*)|(?P<run>.*) \([^()]*\)), (?:moving average of the )?weights after step (?P<step>\d+)"
)

METRICS_FILE = "metrics.jsonl"

Curve = tuple[list[float], list[float]]


@dataclass(frozen=True)
class ReportedRun:
    """One run of a report.

    Attributes:
        name: the run's name, made unique among the runs of the report.
        path: its directory.
        config: its configuration as nested JSON values.
        environment: the newest record of environment.json; empty where there is none.
        records: the lines of metrics.jsonl, in order.
        transfer: name of an evaluation's folder -> what it found, of every task, also of those that are a user's own.
        unfinished: folders of evaluations that have no result yet.
        starts: all records of environment.json, in order.
    """

    name: str
    path: Path
    config: dict[str, Any]
    environment: dict[str, Any]
    records: list[dict[str, Any]]
    transfer: dict[str, Result]
    unfinished: tuple[str, ...] = ()
    starts: tuple[dict[str, Any], ...] = ()

    @property
    def is_baseline(self) -> bool:
        """Trained without the regularizer and without further terms of the loss."""
        return not (self.config.get("regularizer", {}).get("weight", 0) or self.config.get("terms"))

    @property
    def steps_per_epoch(self) -> float | None:
        """Optimizer steps in an epoch, from the training records; None before the first one."""
        last = self.last("train")
        epoch = float(last.get("epoch", 0))
        return last["step"] / epoch if 0 < epoch < math.inf else None

    def curve(self, prefix: str, name: str) -> Curve:
        """Epochs (steps where the epoch is not known) and values of one metric, in order."""
        per_epoch = self.steps_per_epoch or 1.0
        points = [(r["step"] / per_epoch, float(r[name])) for r in self.records if r["prefix"] == prefix and name in r]
        return [x for x, _ in points], [y for _, y in points]

    def last(self, prefix: str) -> dict[str, Any]:
        """The newest record of a prefix, or an empty dictionary."""
        return next((record for record in reversed(self.records) if record["prefix"] == prefix), {})

    def median(self, name: str) -> float | None:
        """Median of a training metric over the run, the first record left out, which has the start-up in it."""
        values = self.curve("train", name)[1]
        return statistics.median(values[1:] or values) if values else None

    def best(self, quantity: Quantity) -> float | None:
        """The highest value of a quantity, or the lowest where that is better."""
        values = self.curve(quantity.prefix, quantity.key)[1]
        return min(values, default=None) if quantity.higher_is_better is False else max(values, default=None)

    def summed_up(self, quantity: Quantity, how: SummingUp) -> float | None:
        """One number for a whole curve; None where the run does not have it."""
        if how == "best":
            return self.best(quantity)
        return self.median(quantity.key) if how == "median" else self.last(quantity.prefix).get(quantity.key)


def load_runs(paths: list[Path]) -> list[ReportedRun]:
    """Read run directories.

    Raises:
        UserError: one is not a run directory, has no metrics, is named twice, or holds a file that is none of ours.
    """
    if len({path.resolve() for path in paths}) < len(paths):
        raise UserError("a run directory is named twice")
    runs = [_load(path) for path in paths]
    names = [run.name for run in runs]
    if len(set(names)) == len(names):
        return runs
    return [ReportedRun(**{**vars(run), "name": str(run.path)}) for run in runs]


def _load(path: Path) -> ReportedRun:
    if not (path / "config.json").is_file():
        raise UserError(f"{path} is not a run directory: it has no config.json; give a directory such as runs/NAME")
    config = read_settings(path)
    environments = read_starts(path)
    records = list(read_metrics(path / METRICS_FILE))
    if damaged := damaged_lines(path / METRICS_FILE):
        count = "a line" if len(damaged) == 1 else f"{len(damaged)} lines"
        warn(f"warning: {path / METRICS_FILE}: {count} that cannot be read left out, the first is line {damaged[0]}")
    if all(record["prefix"] == "hardware" for record in records):  # what a start writes before its first step
        raise UserError(f"{path} has no metrics yet; train for at least log.every steps")
    finished = sorted((path / "transfer").glob(f"*/{RESULT_FILE}"))
    begun = sorted(folder.name for folder in (path / "transfer").glob("*/"))
    return ReportedRun(
        name=str(config.get("run", {}).get("name", path.name)),
        path=path,
        config=config,
        environment=environments[-1] if environments else {},
        records=records,
        transfer={file.parent.name: read_result(file) for file in finished},
        unfinished=tuple(name for name in begun if name not in {file.parent.name for file in finished}),
        starts=tuple(environments),
    )


_Whole = Annotated[int, Field(ge=0, lt=2**63)]


class _Run(BaseModel):
    seed: _Whole = 0


class _Regularizer(BaseModel):
    weight: FiniteFloat = 0.0


class _Term(_Regularizer):
    name: str


class _Optim(BaseModel):
    global_batch: _Whole = 1


class _Data(BaseModel):
    val: str | None = None


class _Settings(BaseModel):
    """What reports look up in a config.json; earlier versions had less."""

    run: _Run = _Run()
    regularizer: _Regularizer = _Regularizer()
    terms: list[_Term] = []
    optim: _Optim = _Optim()
    data: _Data = _Data()


class _Start(BaseModel):
    """What reports look up in a record of environment.json."""

    command: list[str] = []
    world_size: _Whole | None = None
    git_commit: str | None = None
    packages: dict[str, Any] = {}


def read_settings(run: Path) -> dict[str, Any]:
    """A run's config.json, of any version: groups of settings, and the list of terms. Raises UserError."""
    return read_json(run / "config.json", dict[str, dict[str, Any] | list[dict[str, Any]]], _Settings)


def read_starts(run: Path) -> list[dict[str, Any]]:
    """The records of a run's environment.json, none where it has no such file. Raises UserError."""
    file = run / "environment.json"
    return read_json(file, list[dict[str, Any]], list[_Start]) if file.is_file() else []


def read_json(path: Path, *kinds: Any) -> Any:
    """Content of a JSON file, which is of all the ``kinds``, such as ``dict[str, Any]``. Raises UserError."""
    try:
        content = parse_json(read_regular(path))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    with one_line(f"{path} is not what a run writes there"):
        for kind in kinds:
            TypeAdapter(kind).validate_python(content)
    return content


def transfer_figures(run: ReportedRun) -> dict[str, float | None]:
    """The metrics of every evaluation by the label of their row, of each the one that is quoted first."""
    return {
        f"{name}: {metric}": result.metrics[metric]
        for name, result in _named_results(run)
        for metric in sorted(result.metrics, key=lambda metric: metric != result.primary)
    }


def transfer_references(run: ReportedRun) -> dict[str, float | None]:
    """What belongs beside the metrics: those of models without training, and how much could not be read."""
    figures: dict[str, float | None] = {}
    for name, result in _named_results(run):
        for reference, values in result.baselines.items():
            figures |= {f"{name}: {metric}, {reference}": value for metric, value in values.items()}
        figures[f"{name}: scored samples"] = result.data.samples
        if result.data.skipped:
            figures[f"{name}: unreadable ones, which count as wrong"] = result.data.skipped
    return figures


def _named_results(run: ReportedRun) -> list[tuple[str, Result]]:
    last = max(record["step"] for record in run.records)
    return [
        (f"{name}{_of_other_weights(result, run, last)}{' (partial)' * result.partial}", result)
        for name, result in run.transfer.items()
    ]


def _of_other_weights(result: Result, run: ReportedRun, last_step: int) -> str:
    """Whose result it is, where not of the weights that the run has now: an earlier step's, or another run's."""
    described = _TRAINED.fullmatch(result.model.description)
    if described is None:  # of no run, or as it was put by an earlier version
        return ""
    name = described["run"] or described["exported"]
    if name != str(run.config.get("run", {}).get("name", name)):
        return f" (of {name}, after step {described['step']})"
    return "" if int(described["step"]) >= last_step else f" (after step {described['step']})"


def final_figures(run: ReportedRun) -> dict[str, float | None]:
    """The numbers that sum up a run, by the label of their row; None where the run does not have one."""
    terms = run.config.get("terms", ())
    figures = {
        "weight of the entropy": run.config.get("regularizer", {}).get("weight"),
        **{f"weight of the term {term['name']}": term.get("weight") for term in terms},
        "steps": max(record["step"] for record in run.records),
    }
    for quantity in quantities_in(run.records):
        for label, how in quantity.summed_up.items():
            value = run.summed_up(quantity, how)
            figures[label] = 100 * value if value is not None and quantity.scale == "share" else value
    figures["processes"] = run.environment.get("world_size")
    return {label: None if value is None else float(value) for label, value in figures.items()}


def config_differences(runs: list[ReportedRun]) -> dict[str, list[str]]:
    """Dotted configuration keys that are not the same in all runs, with each run's value."""
    flat = [dict(leaves(run.config)) for run in runs]
    keys = dict.fromkeys(key for values in flat for key in values)
    rows = {key: [json.dumps(values.get(key)) for values in flat] for key in keys if key not in ("run.name", "run.dir")}
    return {key: values for key, values in rows.items() if len(set(values)) > 1}
