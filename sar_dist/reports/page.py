"""One page about one run, or several side by side: curves, final figures, differences of configuration, transfer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from sar_dist.observe import QUANTITIES
from sar_dist.reports.attention_steps import attention_steps
from sar_dist.reports.classes import hardest_classes
from sar_dist.reports.curves import report_board
from sar_dist.reports.headlines import headlines
from sar_dist.reports.incidents import incidents_table
from sar_dist.reports.pictures import PagePictures, find_pictures, fit_pictures
from sar_dist.reports.provenance import commands, environment_table, settings_table
from sar_dist.reports.rendering import Picture, TextTable, render_page
from sar_dist.reports.runs import ReportedRun, config_differences, final_figures, transfer_figures, transfer_references
from sar_dist.reports.seeds import (
    SeedGroup,
    differences_table,
    find_baseline,
    labels_of,
    means_table,
    seed_groups,
)

# Rows in which a difference to the baseline means something; "validation" also for terms that only the log knows.
COMPARED = ("validation", *(row for each in QUANTITIES if each.higher_is_better is not None for row in each.summed_up))

PAGE_BYTES = 5_000_000  # what mail, chats and issue trackers still take
FRAME_BYTES = 1_500  # of HTML around a picture


def report_page(runs: Sequence[ReportedRun], curves_png: bytes, baseline: Sequence[Path] = ()) -> str:
    """The report as one HTML page of less than 5 MB that needs no other file.

    Args:
        runs: the runs, in the order of the columns.
        curves_png: the picture of ``report_figure``.
        baseline: folders of the runs with which the others are compared seed by seed. Without any it is the runs without
            regularizer, where they have the same settings.

    Raises:
        UserError: the baseline differs in more than seeds, or nothing is left to compare with it.
    """
    values = _values(runs, curves_png, baseline)
    found = find_pictures(runs)
    bare = render_page("report.html.j2", pictures=PagePictures(), **values)
    room = (PAGE_BYTES - len(bare.encode()) - FRAME_BYTES * len(found)) * 3 // 4  # base64 makes 4 bytes of 3
    return render_page("report.html.j2", pictures=fit_pictures(found, room), **values)


def _values(runs: Sequence[ReportedRun], curves_png: bytes, chosen: Sequence[Path]) -> dict[str, Any]:
    """What the template shows besides the pictures."""
    groups = seed_groups(runs)
    baseline = find_baseline(groups, runs, chosen)
    final_ones = [final_figures(run) for run in runs]
    transfer = [transfer_figures(run) for run in runs]
    single = baseline.runs[0] if baseline is not None and len(baseline.runs) == 1 else None
    tables = [_comparison("Final figures", runs, final_ones, single, compare=_is_compared)]
    references = []
    if any(transfer) and len(runs) == 1:
        tables.append(_beside_references(runs[0]))
    elif any(transfer):
        tables.append(_comparison("Transfer", runs, transfer, single, compare=lambda _: True))
        known = [transfer_references(run) for run in runs]
        references = [_comparison("Transfer: references", runs, known, None, compare=lambda _: False)]
    compared, means = _over_seeds(groups, baseline, final_ones, transfer, asked=bool(chosen))
    picture = Picture("Curves", "curves of all runs, one chart for each logged quantity", curves_png)
    differences = [[key, *values] for key, values in config_differences(list(runs)).items()]
    header = ["key", *(run.name for run in runs)]
    return {
        "title": "Training report: " + ", ".join(run.name for run in runs),
        "headlines": headlines(runs, groups, baseline),
        "first_tables": tables if compared is None else [compared],
        "further_tables": [*([] if means is None else [means]), *([] if compared is None else tables)],
        "references": references,
        "incidents": incidents_table(runs),
        "environment": environment_table(runs),
        "settings": settings_table(runs),
        "commands": commands(runs),
        "differences": TextTable("Different settings", header, differences) if differences else None,
        "attended": attention_steps(runs),
        "hardest": hardest_classes(runs),
        "curves": report_board(runs, picture),
    }


def _over_seeds(
    groups: Sequence[SeedGroup],
    baseline: SeedGroup | None,
    final_ones: Sequence[dict[str, float | None]],
    transfer: Sequence[dict[str, float | None]],
    *,
    asked: bool,
) -> tuple[TextTable | None, TextTable | None]:
    """Differences with their intervals, where a baseline was named or there are several seeds; means over seeds."""
    means = means_table(groups, [final | scores for final, scores in zip(final_ones, transfer, strict=True)])
    repeated = any(group.repeats_a_seed for group in groups)
    if baseline is None or repeated or not (asked or means is not None):
        return None, means
    compared = [{label: value for label, value in final.items() if _is_compared(label)} for final in final_ones]
    both = [final | scores for final, scores in zip(compared, transfer, strict=True)]
    return differences_table(groups, baseline, both), means


def _beside_references(run: ReportedRun) -> TextTable:
    """The evaluations of a single run, each metric with those of models without training beside it."""
    figures, references = transfer_figures(run), transfer_references(run)
    names = list(dict.fromkeys(name for result in run.transfer.values() for name in result.baselines))
    beside = {f"{label}, {name}": (label, name) for label in figures for name in names}
    rows = [
        [label, *(_number(value) for value in (figure, *(references.get(f"{label}, {name}") for name in names)))]
        for label, figure in figures.items()
    ]
    rows += [[label, _number(value), *[""] * len(names)] for label, value in references.items() if label not in beside]
    return TextTable("Transfer", ["", run.name, *names], rows)


def _is_compared(label: str) -> bool:
    return any(part in label for part in COMPARED)


def _comparison(
    title: str,
    runs: Sequence[ReportedRun],
    figures: Sequence[dict[str, float | None]],
    baseline: int | None,
    compare: Callable[[str], bool],
) -> TextTable:
    """A row for each figure that some run has; differences to the baseline in brackets, where ``compare`` says so."""
    rows = []
    for label in labels_of(figures):
        cells = []
        for number, values in enumerate(figures):
            value = values.get(label)
            other = figures[baseline].get(label) if baseline not in (None, number) and compare(label) else None
            difference = None if value is None or other is None else value - other
            cells.append(_number(value) + ("" if difference is None else f" ({_number(difference, signed=True)})"))
        if any(cell != _number(None) for cell in cells):
            rows.append([label, *cells])
    compared = baseline is not None and any(map(compare, (row[0] for row in rows)))
    note = f"In brackets: difference to {runs[baseline].name}." if baseline is not None and compared else ""
    return TextTable(title, ["", *(run.name for run in runs)], rows, note)


def _number(value: float | None, *, signed: bool = False) -> str:
    if value is None:
        return "–"
    if not signed and abs(value) < 1e9 and value == int(value):
        return f"{int(value):,}"
    return f"{value:+.3g}" if signed else f"{value:.4g}"
