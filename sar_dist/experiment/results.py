"""What an experiment has found so far: the final figures of every finished run, by arm, seed and metric."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from sar_dist.errors import UserError
from sar_dist.experiment.records import (
    RunRecord,
    joined,
    read_record,
    record_file,
    record_of,
    recorded_seeds,
    write_record,
)
from sar_dist.experiment.runs import is_finished, run_folder
from sar_dist.experiment.specification import Arm, Experiment
from sar_dist.observe import quantities_in
from sar_dist.paired_statistics import Difference, paired_difference
from sar_dist.quantities import Quantity
from sar_dist.reports import ReportedRun, Summary, summarize

PARTIAL = " (partial)"  # marks the row of an evaluation on a part of its data


@dataclass(frozen=True)
class Comparison:
    """An arm and the arm it is compared with, seed by seed."""

    arm: str
    reference: str


@dataclass(frozen=True)
class Results:
    """Everything measured.

    Attributes:
        experiment: what was run.
        arms: the arms that have at least one finished run, in the order of the specification.
        records: arm -> seed -> everything that the run measured.
        runs: arm -> seed -> the same, as charts take it.
        values: metric -> arm -> seed -> value; metrics in the order of the tables.
        references: metric -> name of a reference without training ("uniform", "random backbone") -> mean over all runs.
        unfinished: names of runs that were begun, or are in the specification, and have no end yet.
    """

    experiment: Experiment
    arms: tuple[Arm, ...]
    records: Mapping[str, Mapping[int, RunRecord]]
    runs: Mapping[str, Mapping[int, ReportedRun]]
    values: Mapping[str, Mapping[str, Mapping[int, float]]]
    references: Mapping[str, Mapping[str, float]]
    unfinished: tuple[str, ...]

    @property
    def quantities(self) -> tuple[Quantity, ...]:
        """What the runs log."""
        return quantities_in(
            record for by_seed in self.runs.values() for run in by_seed.values() for record in run.records
        )

    def summary(self, metric: str, arm: str) -> Summary | None:
        """Mean and deviation over the seeds; None where the arm has no value."""
        values = list(self.values[metric].get(arm, {}).values())
        return summarize(values) if values else None

    def difference(self, metric: str, comparison: Comparison) -> Difference | None:
        """Paired difference of two arms."""
        by_arm = self.values[metric]
        return paired_difference(by_arm.get(comparison.arm, {}), by_arm.get(comparison.reference, {}))

    def comparisons(self) -> list[Comparison]:
        """Every arm with the baseline, then with the other arms it names, each once, as far as there are runs."""
        names = {arm.name for arm in self.arms}
        base = self.experiment.baseline.name
        pairs = [Comparison(arm.name, base) for arm in self.arms if arm.name != base]
        pairs += [Comparison(arm.name, other) for arm in self.arms for other in arm.against]
        return [pair for pair in dict.fromkeys(pairs) if {pair.arm, pair.reference} <= names]


def collect(experiment: Experiment, out: Path, records: Path | None = None) -> Results:
    """Read all finished runs of the experiment and their evaluations.

    Args:
        experiment: what was run.
        out: its folder.
        records: folder with records of further runs, or of the same.

    Raises:
        UserError: a file is damaged, a result lacks a metric that the specification shows, or a run and its record differ.
    """
    found: dict[str, dict[int, RunRecord]] = {}
    unfinished = []
    for arm in experiment.arms:
        for seed in _seeds(experiment, arm, out, records):
            record = _finished_run(experiment, arm, seed, out, records)
            if record is None:
                unfinished.append(experiment.run_name(arm, seed))
            else:
                found.setdefault(arm.name, {})[seed] = record
    runs = {
        arm: {seed: record.run(run_folder(out, f"{arm}_seed{seed}")) for seed, record in by_seed.items()}
        for arm, by_seed in found.items()
    }
    values: dict[str, dict[str, dict[int, float]]] = {}
    references: dict[str, dict[str, list[float]]] = {}
    for name, by_seed in runs.items():
        for seed, run in by_seed.items():
            for metric, value in _validation_figures(run).items():
                values.setdefault(metric, {}).setdefault(name, {})[seed] = value
    for recorded in found.values():
        for record in recorded.values():
            _add_evaluations(experiment, record, values, references)
    return Results(
        experiment,
        tuple(arm for arm in experiment.arms if arm.name in runs),
        found,
        runs,
        values,
        {metric: {name: summarize(each).mean for name, each in found.items()} for metric, found in references.items()},
        tuple(unfinished),
    )


def keep_records(results: Results, folder: Path) -> int:
    """Write the record of every run whose evaluations are all done; gives their number. Raises UserError."""
    wanted = {evaluation.name for evaluation in results.experiment.evaluations}
    complete = [
        record
        for by_seed in results.records.values()
        for record in by_seed.values()
        if wanted <= record.evaluations.keys()
    ]
    for record in complete:
        write_record(record, folder)
    return len(complete)


def _finished_run(experiment: Experiment, arm: Arm, seed: int, out: Path, records: Path | None) -> RunRecord | None:
    """What is known of a run, from its folder, its record or both; None while it has no end."""
    kept = read_record(records, experiment, arm, seed) if records is not None else None
    if not is_finished(run_folder(out, experiment.run_name(arm, seed))):
        return kept
    made = record_of(experiment, arm, seed, out)
    return joined(kept, made, record_file(records, arm.name, seed)) if records is not None and kept else made


def _seeds(experiment: Experiment, arm: Arm, out: Path, records: Path | None) -> list[int]:
    """Seeds of the specification (for arms that are not optional) and of the runs that are there."""
    pattern = re.compile(re.escape(experiment.run_name(arm, 0)).removesuffix("0") + r"(\d+)")
    found = [pattern.fullmatch(folder.name) for folder in (out / "runs").glob("*/")]
    kept = recorded_seeds(records, arm.name) if records is not None else set()
    return sorted(set(experiment.seeds_of(arm)) | kept | {int(match[1]) for match in found if match})


def compared(quantities: Iterable[Quantity]) -> list[Quantity]:
    """Those of which the tables have a row: measured in validation, where one way is better."""
    return [each for each in quantities if each.prefix == "val" and each.higher_is_better is not None]


def _validation_figures(run: ReportedRun) -> dict[str, float]:
    last = run.last("val")
    return {each.title: float(last[each.key]) for each in compared(quantities_in(run.records)) if each.key in last}


def _add_evaluations(
    experiment: Experiment,
    record: RunRecord,
    values: dict[str, dict[str, dict[int, float]]],
    references: dict[str, dict[str, list[float]]],
) -> None:
    for evaluation in experiment.evaluations:
        result = record.evaluations.get(evaluation.name)
        if result is None:
            continue
        mark = PARTIAL if result.partial else ""
        for name in evaluation.metrics or (result.primary,):
            if name not in result.metrics:
                raise UserError(
                    f"the evaluation {evaluation.name} of {record.arm}, seed {record.seed}, has no {name!r}, which the "
                    f"experiment shows: {', '.join(result.metrics)}"
                )
            metric = f"{evaluation.name}: {name}{mark}"
            values.setdefault(metric, {}).setdefault(record.arm, {})[record.seed] = result.metrics[name]
            for reference, its in result.baselines.items():
                if name in its:
                    references.setdefault(metric, {}).setdefault(reference, []).append(its[name])
