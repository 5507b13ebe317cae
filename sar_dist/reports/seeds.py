"""Runs that differ in nothing but their seed, summed up: mean and standard deviation, and the difference to the baseline."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence

from sar_dist.reports.rendering import TextTable
from sar_dist.reports.runs import ReportedRun
from sar_dist.reports.summary import summarize

_OF_ONE_RUN = ("name", "dir", "seed")
_NOTE = "Mean ± standard deviation over seeds; in brackets the difference to the runs without regularizer."


def seed_groups(runs: Sequence[ReportedRun]) -> list[list[int]]:
    """Numbers of the runs with the same configuration but for name, folder and seed, in order of first appearance."""
    groups: dict[str, list[int]] = {}
    for number, run in enumerate(runs):
        shared = {key: value for key, value in run.config.items() if key != "run"}
        rest = {key: value for key, value in run.config.get("run", {}).items() if key not in _OF_ONE_RUN}
        groups.setdefault(json.dumps([shared, rest], sort_keys=True), []).append(number)
    return list(groups.values())


def seeds_table(runs: Sequence[ReportedRun], figures: Sequence[Mapping[str, float | None]]) -> TextTable | None:
    """The table over seeds; None where no configuration was run with two of them.

    A cell is the mean with the standard deviation (n - 1) of the runs that have the figure, and in brackets the
    difference of the means to the only group without the regularizer.

    Args:
        runs: all runs of a report.
        figures: of each run, label to value.
    """
    groups = seed_groups(runs)
    if all(len(group) == 1 for group in groups):
        return None
    baselines = [number for number, group in enumerate(groups) if runs[group[0]].is_baseline]
    baseline = baselines[0] if len(baselines) == 1 and len(groups) > 1 else None
    rows = []
    for label in dict.fromkeys(label for values in figures for label in values):
        found = [_present([figures[number].get(label) for number in group]) for group in groups]
        if not any(found):
            continue
        reference = found[baseline] if baseline is not None else []
        cells = [_cell(values, reference if number != baseline else []) for number, values in enumerate(found)]
        rows.append([label, *cells])
    header = ["", *(_group_name([runs[number].name for number in group]) for group in groups)]
    return TextTable("Over seeds", header, rows, _NOTE)


def _present(values: Sequence[float | None]) -> list[float]:
    return [value for value in values if value is not None]


def _cell(values: Sequence[float], reference: Sequence[float]) -> str:
    if not values:
        return "–"
    found = summarize(values)
    text = f"{found.mean:.4g}" + ("" if found.deviation is None else f" ± {found.deviation:.2g}")
    return text + (f" ({found.mean - summarize(reference).mean:+.3g})" if reference else "")


def _group_name(names: Sequence[str]) -> str:
    """The beginning that the names share, and how many runs they are."""
    same = itertools.takewhile(lambda letters: len(set(letters)) == 1, zip(*names, strict=False))
    shared = "".join(letters[0] for letters in same).rstrip("_-. ").removesuffix("seed").rstrip("_-. ")
    return names[0] if len(names) == 1 else f"{shared or names[0]} ({len(names)} seeds)"
