"""Runs that differ in nothing but their seed: their means, and their differences to a baseline, seed by seed."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sar_dist.errors import UserError
from sar_dist.observe import QUANTITIES
from sar_dist.paired_statistics import Difference, paired_difference
from sar_dist.reports.rendering import TextTable
from sar_dist.reports.runs import ReportedRun, config_differences
from sar_dist.reports.summary import Summary, summarize
from sar_dist.reports.wording import (
    DIFFERENCES_NOTE,
    MEANS_NOTE,
    NOTHING,
    ONE_SEED_NOTE,
    format_difference,
    format_mean,
    format_summary,
)

_OF_ONE_RUN = ("name", "dir", "seed")
_LESS_IS_BETTER = {row for each in QUANTITIES if each.higher_is_better is False for row in each.summed_up}
_ERRORS = ("mce", "mce_partial")  # of the evaluations' metrics
Figures = Sequence[Mapping[str, float | None]]  # of each run, label to value


@dataclass(frozen=True)
class SeedGroup:
    """Runs with the same configuration but for name, folder and seed.

    Attributes:
        name: for people.
        runs: their numbers among the runs of a report.
        seeds: of each.
        is_baseline: trained without the regularizer and further terms.
    """

    name: str
    runs: Sequence[int]
    seeds: Sequence[int]
    is_baseline: bool

    @property
    def repeats_a_seed(self) -> bool:
        """Whether two of the runs have the same seed, so that they are no further repetition."""
        return len(set(self.seeds)) < len(self.seeds)

    def by_seed(self, figures: Figures, label: str) -> dict[int, float]:
        """A figure of the runs that have it."""
        values = ((seed, figures[number].get(label)) for seed, number in zip(self.seeds, self.runs, strict=True))
        return {seed: value for seed, value in values if value is not None}

    def summary(self, figures: Figures, label: str) -> Summary | None:
        """Mean and deviation of a figure; None where no run has it."""
        values = [value for number in self.runs if (value := figures[number].get(label)) is not None]
        return summarize(values) if values else None


def seed_groups(runs: Sequence[ReportedRun]) -> list[SeedGroup]:
    """The groups in order of first appearance."""
    groups: dict[str, list[int]] = {}
    for number, run in enumerate(runs):
        groups.setdefault(_all_but_the_seed(run), []).append(number)
    return [
        SeedGroup(
            _group_name([runs[number].name for number in numbers]),
            numbers,
            [runs[number].config.get("run", {}).get("seed", 0) for number in numbers],
            runs[numbers[0]].is_baseline,
        )
        for numbers in groups.values()
    ]


def find_baseline(groups: Sequence[SeedGroup], runs: Sequence[ReportedRun], chosen: Iterable[Path]) -> SeedGroup | None:
    """The group with which the others are compared.

    Args:
        groups, runs: of a report.
        chosen: folders of runs that were named as the baseline; without any it is the only group without the regularizer,
            if all runs are validated on the same data.

    Raises:
        UserError: the chosen ones differ in more than their seed, there is nothing besides them, or a seed is there twice.
    """
    folders = {folder.resolve() for folder in chosen}
    if not folders:
        if len({run.config.get("data", {}).get("val") for run in runs}) > 1:
            return None
        plain = [group for group in groups if group.is_baseline]
        return plain[0] if len(plain) == 1 < len(groups) else None
    found = [group for group in groups if any(runs[number].path.resolve() in folders for number in group.runs)]
    if len(found) > 1:
        first, second = (runs[group.runs[0]] for group in found[:2])
        changed = ", ".join(key for key in config_differences([first, second]) if key != "run.seed")
        raise UserError(
            f"the baselines {first.name} and {second.name} differ in {changed}; a baseline differs in seeds alone"
        )
    if len(groups) == 1:
        raise UserError("every run has the baseline's settings; name a run that differs in more than its seed")
    for group in groups:
        if group.repeats_a_seed:
            names = ", ".join(runs[number].name for number in group.runs)
            raise UserError(
                f"{names} have the same settings, and a seed in common; differences take one run of each seed"
            )
    return found[0]


def means_table(groups: Sequence[SeedGroup], figures: Figures) -> TextTable | None:
    """Means over seeds, a column for each group; None where no configuration was run with two of them."""
    if all(len(group.runs) == 1 for group in groups):
        return None
    rows = [
        [label, *(format_summary(group.summary(figures, label)) for group in groups)] for label in labels_of(figures)
    ]
    shown = [row for row in rows if any(cell != NOTHING for cell in row[1:])]
    return TextTable("Over seeds", ["", *(group.name for group in groups)], shown, MEANS_NOTE)


def differences_table(groups: Sequence[SeedGroup], baseline: SeedGroup, figures: Figures) -> TextTable:
    """Differences to the baseline seed by seed, before the figures of each group: on a phone the first column is seen."""
    others = [group for group in groups if group is not baseline]
    differing = {
        label: [difference(group, baseline, figures, label) for group in others] for label in labels_of(figures)
    }
    shown = {label: found for label, found in differing.items() if any(each is not None for each in found)}
    rows = [
        [
            f"{label} (less is better)" if label in _LESS_IS_BETTER or label.rpartition(": ")[2] in _ERRORS else label,
            *map(format_difference, found),
            *(format_mean(group.summary(figures, label)) for group in groups),
        ]
        for label, found in shown.items()
    ]
    lonely = [group.name for group in others if not set(group.seeds) & set(baseline.seeds)]
    alone = f" Without a seed in common with it: {', '.join(lonely)}." if lonely else ""
    single = all(each is None or each.bootstrap is None for found in shown.values() for each in found)
    names = ["difference"] if len(others) == 1 else [f"difference of {group.name}" for group in others]
    header = ["", *names, *(group.name for group in groups)]
    note = ONE_SEED_NOTE if single else DIFFERENCES_NOTE
    return TextTable(f"Differences to {baseline.name}", header, rows, note + alone)


def difference(group: SeedGroup, baseline: SeedGroup, figures: Figures, label: str) -> Difference | None:
    """Paired difference of a figure; None where no seed has it in both."""
    return paired_difference(group.by_seed(figures, label), baseline.by_seed(figures, label))


def labels_of(figures: Figures) -> list[str]:
    """The figures that any run has, in order of first appearance."""
    return list(dict.fromkeys(label for values in figures for label in values))


def _all_but_the_seed(run: ReportedRun) -> str:
    shared = {key: value for key, value in run.config.items() if key != "run"}
    rest = {key: value for key, value in run.config.get("run", {}).items() if key not in _OF_ONE_RUN}
    return json.dumps([shared, rest], sort_keys=True)


def _group_name(names: Sequence[str]) -> str:
    """The beginning that the names share, and how many runs they are."""
    same = itertools.takewhile(lambda letters: len(set(letters)) == 1, zip(*names, strict=False))
    shared = "".join(letters[0] for letters in same).rstrip("_-. ").removesuffix("seed").rstrip("_-. ")
    return names[0] if len(names) == 1 else f"{shared or names[0]} ({len(names)} seeds)"
