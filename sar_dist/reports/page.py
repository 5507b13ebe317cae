"""One page about one run, or several side by side: curves, final figures, differences of configuration, transfer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from sar_dist.observe import QUANTITIES, quantities_in
from sar_dist.reports.attention_steps import attention_steps
from sar_dist.reports.classes import hardest_classes
from sar_dist.reports.curves import report_board
from sar_dist.reports.pictures import PagePictures, find_pictures, fit_pictures
from sar_dist.reports.rendering import Headline, Picture, TextTable, render_page
from sar_dist.reports.runs import ReportedRun, config_differences, final_figures, transfer_figures, transfer_references
from sar_dist.reports.seeds import seeds_table

# Rows in which a difference to the baseline means something; "validation" also for terms that only the log knows.
COMPARED = ("validation", *(row for each in QUANTITIES if each.higher_is_better is not None for row in each.summed_up))

PAGE_BYTES = 5_000_000  # what mail, chats and issue trackers still take
FRAME_BYTES = 1_500  # of HTML around a picture


def report_page(runs: Sequence[ReportedRun], curves_png: bytes) -> str:
    """The report as one HTML page of less than 5 MB that needs no other file.

    Args:
        runs: the runs, in the order of the columns. With exactly one baseline among several runs, the figures of the
            others show the difference to it.
        curves_png: the picture of ``report_figure``.
    """
    values = _values(runs, curves_png)
    found = find_pictures(runs)
    bare = render_page("report.html.j2", pictures=PagePictures(), **values)
    room = (PAGE_BYTES - len(bare.encode()) - FRAME_BYTES * len(found)) * 3 // 4  # base64 makes 4 bytes of 3
    return render_page("report.html.j2", pictures=fit_pictures(found, room), **values)


def _values(runs: Sequence[ReportedRun], curves_png: bytes) -> dict[str, Any]:
    """What the template shows besides the pictures."""
    final_ones = [final_figures(run) for run in runs]
    transfer = [transfer_figures(run) for run in runs]
    tables = [_comparison("Final figures", runs, final_ones, compare=_is_compared)]
    if any(transfer) and len(runs) == 1:
        tables.append(_beside_references(runs[0]))
    elif any(transfer):
        references = [transfer_references(run) for run in runs]
        tables.append(_comparison("Transfer", runs, transfer, compare=lambda _: True))
        tables.append(_comparison("Transfer: references", runs, references, compare=lambda _: False))
    seeds = seeds_table(runs, [final | scores for final, scores in zip(final_ones, transfer, strict=True)])
    if seeds is not None:
        tables.append(seeds)
    differences = config_differences(list(runs))
    rows = [[key, *values] for key, values in differences.items()]
    return {
        "title": "Training report: " + ", ".join(run.name for run in runs),
        "headlines": [headline for run in runs for headline in _headlines(run)],
        "origins": [_origin(run) for run in runs],
        "tables": tables,
        "differences": TextTable("Different settings", ["key", *(run.name for run in runs)], rows) if rows else None,
        "attended": attention_steps(runs),
        "hardest": hardest_classes(runs),
        "curves": report_board(
            runs, Picture("Curves", "curves of all runs, one chart for each logged quantity", curves_png)
        ),
    }


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


def _headlines(run: ReportedRun) -> list[Headline]:
    """How far the run is, and the first of its validation figures of which more is better."""
    steps = max(record["step"] for record in run.records)
    for quantity in quantities_in(run.records):
        value = run.summed_up(quantity, "last")
        if quantity.prefix == "val" and quantity.higher_is_better and value is not None:
            unit = f" {quantity.unit}" if quantity.unit else ""
            return [
                Headline(run.name, f"{float(value):.4g}{unit}", f"validation {quantity.label} after step {steps:,}")
            ]
    return [Headline(run.name, f"{steps:,} steps", "not validated yet")]


def _origin(run: ReportedRun) -> str:
    environment = run.environment
    parts = [f"{run.name}: {run.path}"]
    if environment:
        commit = str(environment.get("git_commit") or "no commit")[:12]
        changes = " with changes" if environment.get("git_changes") else ""
        parts.append(f"{environment.get('world_size')} x {environment.get('device')}")
        parts.append(f"started {environment.get('started')}, {commit}{changes}")
    if run.unfinished:
        parts.append(f"evaluations without a result yet: {', '.join(run.unfinished)}")
    return "; ".join(parts)


def _is_compared(label: str) -> bool:
    return any(part in label for part in COMPARED)


def _comparison(
    title: str,
    runs: Sequence[ReportedRun],
    figures: Sequence[dict[str, float | None]],
    compare: Callable[[str], bool],
) -> TextTable:
    """A row for each figure that some run has; differences to the only baseline in brackets, where ``compare`` says so."""
    baselines = [number for number, run in enumerate(runs) if run.is_baseline]
    baseline = baselines[0] if len(baselines) == 1 and len(runs) > 1 else None
    rows = []
    for label in dict.fromkeys(label for values in figures for label in values):
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
