"""What an experiment has found so far: the final figures of every finished run, by arm, seed and metric."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from sar_dist.errors import UserError
from sar_dist.experiment.runner import evaluation_result, is_finished
from sar_dist.experiment.specification import Arm, Experiment
from sar_dist.observe import quantities_in
from sar_dist.paired_statistics import Difference, paired_difference
from sar_dist.quantities import Quantity
from sar_dist.reports import ReportedRun, Summary, load_runs, summarize
from sar_dist.transfer import read_result


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
        runs: arm -> seed -> the run.
        values: metric -> arm -> seed -> value; metrics in the order of the tables.
        references: metric -> name of a reference without training ("uniform", "random backbone") -> mean over all runs.
        unfinished: names of runs that were begun, or are in the specification, and have no end yet.
    """

    experiment: Experiment
    arms: tuple[Arm, ...]
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
        """Every arm with the baseline, then with the other arms it names, as far as there are runs."""
        names = {arm.name for arm in self.arms}
        base = self.experiment.baseline.name
        pairs = [Comparison(arm.name, base) for arm in self.arms if arm.name != base]
        pairs += [Comparison(arm.name, other) for arm in self.arms for other in arm.against]
        return [pair for pair in pairs if {pair.arm, pair.reference} <= names]


def collect(experiment: Experiment, out: Path) -> Results:
    """Read all finished runs of the experiment and their evaluations.

    Raises:
        UserError: a file is damaged, or a result lacks a metric that the specification shows.
    """
    runs: dict[str, dict[int, ReportedRun]] = {}
    unfinished = []
    for arm in experiment.arms:
        for seed in _seeds(experiment, arm, out):
            folder = out / "runs" / experiment.run_name(arm, seed)
            if is_finished(folder):
                runs.setdefault(arm.name, {})[seed] = load_runs([folder])[0]
            else:
                unfinished.append(folder.name)
    values: dict[str, dict[str, dict[int, float]]] = {}
    references: dict[str, dict[str, list[float]]] = {}
    for name, by_seed in runs.items():
        for seed, run in by_seed.items():
            for metric, value in _validation_figures(run).items():
                values.setdefault(metric, {}).setdefault(name, {})[seed] = value
    for name, by_seed in runs.items():
        for seed, run in by_seed.items():
            _add_evaluations(experiment, out, name, seed, run, values, references)
    return Results(
        experiment,
        tuple(arm for arm in experiment.arms if arm.name in runs),
        runs,
        values,
        {metric: {name: summarize(each).mean for name, each in found.items()} for metric, found in references.items()},
        tuple(unfinished),
    )


def _seeds(experiment: Experiment, arm: Arm, out: Path) -> list[int]:
    """Seeds of the specification (for arms that are not optional) and of the runs that are there."""
    pattern = re.compile(re.escape(experiment.run_name(arm, 0)).removesuffix("0") + r"(\d+)")
    found = [pattern.fullmatch(folder.name) for folder in (out / "runs").glob("*/")]
    planned = set() if arm.optional else set(experiment.seeds)
    return sorted(planned | {int(match[1]) for match in found if match})


def _validation_figures(run: ReportedRun) -> dict[str, float]:
    last = run.last("val")
    compared = [
        each for each in quantities_in(run.records) if each.prefix == "val" and each.higher_is_better is not None
    ]
    return {each.title: float(last[each.key]) for each in compared if each.key in last}


def _add_evaluations(
    experiment: Experiment,
    out: Path,
    arm: str,
    seed: int,
    run: ReportedRun,
    values: dict[str, dict[str, dict[int, float]]],
    references: dict[str, dict[str, list[float]]],
) -> None:
    for evaluation in experiment.evaluations:
        file = evaluation_result(out, run.path.name, evaluation)
        if file is None:
            continue
        result = read_result(file)
        mark = " (partial)" if result.partial else ""
        for name in evaluation.metrics or (result.primary,):
            if name not in result.metrics:
                raise UserError(f"{file} has no {name!r}, which the experiment shows: {', '.join(result.metrics)}")
            metric = f"{evaluation.name}: {name}{mark}"
            values.setdefault(metric, {}).setdefault(arm, {})[seed] = result.metrics[name]
            for reference, its in result.baselines.items():
                if name in its:
                    references.setdefault(metric, {}).setdefault(reference, []).append(its[name])
