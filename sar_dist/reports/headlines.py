"""The few numbers that a report begins with: which configuration is better, and by how much."""

from __future__ import annotations

from collections.abc import Sequence

from sar_dist.observe import quantities_in
from sar_dist.quantities import Quantity
from sar_dist.reports.rendering import Headline
from sar_dist.reports.runs import ReportedRun
from sar_dist.reports.seeds import SeedGroup, difference
from sar_dist.reports.wording import format_difference, format_mean


def headlines(runs: Sequence[ReportedRun], groups: Sequence[SeedGroup], baseline: SeedGroup | None) -> list[Headline]:
    """The first of the validation figures of which more is better: of each configuration, and how far from the baseline."""
    quantities = quantities_in(record for run in runs for record in run.records)
    for quantity in quantities:
        values = [{"": _number(run.summed_up(quantity, "last"))} for run in runs]
        if quantity.prefix == "val" and quantity.higher_is_better and any(value[""] is not None for value in values):
            return [_headline(runs, group, baseline, values, quantity) for group in groups]
    return [Headline(run.name, f"{_last_step(run):,} steps", "not validated yet") for run in runs]


def _headline(
    runs: Sequence[ReportedRun],
    group: SeedGroup,
    baseline: SeedGroup | None,
    values: Sequence[dict[str, float | None]],
    quantity: Quantity,
) -> Headline:
    found = group.summary(values, "")
    if found is None:
        return Headline(
            group.name, f"{max(_last_step(runs[number]) for number in group.runs):,} steps", "not validated yet"
        )
    unit = f" {quantity.unit}" if quantity.unit else ""
    value = format_mean(found) + unit
    steps = " or ".join(f"{step:,}" for step in sorted({_last_step(runs[number]) for number in group.runs}))
    note = f"validation {quantity.label} after step {steps}"
    if baseline is not None and group is not baseline and not (group.repeats_a_seed or baseline.repeats_a_seed):
        against = difference(group, baseline, values, "")
        note += "" if against is None else f"; {format_difference(against)} against {baseline.name}"
    return Headline(group.name, value, note)


def _last_step(run: ReportedRun) -> int:
    return max(record["step"] for record in run.records)


def _number(value: float | str | None) -> float | None:
    """A logged value, which is a string where it is not finite."""
    return None if value is None else float(value)
