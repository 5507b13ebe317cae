"""The end of an experiment: its tables in the terminal, as Markdown and on one page with its curves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.table import Table

from sar_dist.errors import UserError
from sar_dist.experiment.curves import curves_board, curves_figure, heads_figure, points_figure
from sar_dist.experiment.results import Comparison, Results
from sar_dist.experiment.specification import Analysis
from sar_dist.experiment.verdicts import verdicts
from sar_dist.files import make_folder
from sar_dist.paired_statistics import Difference
from sar_dist.reports import (
    DIFFERENCES_NOTE,
    MEANS_NOTE,
    NOTHING,
    Headline,
    Picture,
    TextTable,
    attention_steps,
    check_place,
    figure_png,
    format_difference,
    format_summary,
    png_or_note,
    render_page,
)

PAGE_FILE, TABLES_FILE = "experiment.html", "results.md"
FEW = 6
ANALYSIS_NOTE = (
    "Mean difference of runs with the same seed; in brackets its 95 % interval by Student's t, for each row by itself. "
    "p are two-sided and corrected by Holm's method for the number of rows. Established: both p are at most {level:g}, with all seeds of the plan."
)
TOO_FEW_NOTE = (
    "With the {pairs} pairs of the plan the permutation test's p cannot be below {least:.3g}, so that nothing can be established: "
    "the intervals are what there is to read."
)
PICTURES = {
    "points": "Primary measures: a point for each seed, lines join the same seed, bars are means",
    "curves": "Curves: mean over the seeds, band of one standard deviation",
    "heads": "Heads of the tapped blocks, validation set",
}

FIGURES = tuple(PICTURES)


def tables(results: Results) -> Iterator[TextTable]:
    """The declared analyses, means of every arm, paired differences."""
    for analysis in results.experiment.analysis:
        yield verdicts_table(results, analysis)
    yield means_table(results)
    comparisons = results.comparisons()
    if comparisons:
        yield differences_table(results, comparisons)


def verdicts_table(results: Results, analysis: Analysis) -> TextTable:
    """A row for each primary measure of a declared analysis."""
    found = verdicts(results, analysis)
    rows = [
        [
            verdict.measure.metric,
            str(verdict.difference.count if verdict.difference else 0),
            _one_interval(verdict.difference),
            _p(verdict.student),
            _p(verdict.permutation),
            f"{verdict.measure.matters:g}",
            *([_one_interval(verdict.without_explored)] if analysis.explored else []),
            verdict.words,
        ]
        for verdict in found
    ]
    header = [
        "",
        "pairs",
        "difference",
        "p, Student's t",
        "p, permutation",
        "would matter",
        *([f"without seeds {', '.join(map(str, analysis.explored))}"] if analysis.explored else []),
        "verdict",
    ]
    note = ANALYSIS_NOTE.format(level=analysis.level)
    planned = found[0].planned
    if (least := analysis.least_p(planned)) > analysis.level:
        note += f" {TOO_FEW_NOTE.format(pairs=planned, least=least, level=analysis.level)}"
    return TextTable(f"Declared before the runs: {analysis.arm} - {analysis.reference}", header, rows, note)


def _one_interval(difference: Difference | None) -> str:
    return format_difference(difference and replace(difference, bootstrap=None))


def _p(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.3f}" if value >= 0.001 else "< .001"


def means_table(results: Results) -> TextTable:
    """A row for each metric, a column for each arm and for each reference without training."""
    references = list(dict.fromkeys(name for found in results.references.values() for name in found))
    rows = []
    for metric in results.values:
        cells = [format_summary(results.summary(metric, arm.name)) for arm in results.arms]
        known = results.references.get(metric, {})
        cells += [f"{known[name]:.4g}" if name in known else "" for name in references]
        rows.append([metric, *cells])
    return TextTable("Results", ["", *(arm.name for arm in results.arms), *references], rows, MEANS_NOTE)


def differences_table(results: Results, comparisons: Sequence[Comparison]) -> TextTable:
    """A row for each metric, a column for each comparison."""
    rows = [
        [metric, *(format_difference(results.difference(metric, pair)) for pair in comparisons)]
        for metric in results.values
    ]
    header = ["", *(f"{pair.arm} - {pair.reference} ({_pairs(results, pair)})" for pair in comparisons)]
    return TextTable("Paired differences", header, rows, DIFFERENCES_NOTE)


def _pairs(results: Results, comparison: Comparison) -> str:
    """How many pairs of runs the rows of a comparison have."""
    found = [results.difference(metric, comparison) for metric in results.values]
    counts = {each.count for each in found if each is not None}
    least, most = min(counts, default=0), max(counts, default=0)
    return f"{most} pair{'s' * (most != 1)}" if least == most else f"{least} to {most} pairs"


def print_tables(results: Results) -> None:
    """The tables in the terminal; in full width where the output is a file."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=200)
    for table in tables(results):
        shown = Table(title=table.title, caption=table.note)
        for number, name in enumerate(table.header):
            shown.add_column(name, justify="left" if number == 0 else "right")
        for row in table.rows:
            shown.add_row(*row)
        console.print(shown)
    if results.unfinished:
        console.print(f"not finished: {', '.join(_unfinished(results))}", highlight=False)


def _unfinished(results: Results) -> list[str]:
    """The runs without an end; of many, their number in each arm."""
    if len(results.unfinished) <= FEW:
        return list(results.unfinished)
    arms = Counter(name.rpartition("_seed")[0] for name in results.unfinished)
    return [f"{count} of {arm}" for arm, count in arms.items()]


def markdown_tables(results: Results) -> Iterator[tuple[str, str, str]]:
    """Title, note and rows of every table, the rows as Markdown."""
    for table in tables(results):
        lines = [f"| {' | '.join(row)} |" for row in [table.header, ["---"] * len(table.header), *table.rows]]
        yield table.title, table.note, "\n".join(lines)


def markdown(results: Results) -> str:
    """The tables as Markdown."""
    parts = [f"# {results.experiment.title}"]
    for title, note, rows in markdown_tables(results):
        parts += [f"## {title}", note, rows]
    if results.unfinished:
        parts.append(f"Not finished: {', '.join(_unfinished(results))}.")
    return "\n\n".join(parts) + "\n"


def write_figures(
    results: Results, folder: Path, prefix: str = "", names: Collection[str] = FIGURES
) -> dict[str, bytes]:
    """Write ``points.png``, ``curves.png`` and ``heads.png``, as far as there is something to draw; gives their bytes.

    Args:
        results: with at least one run.
        folder: where to, an existing one.
        prefix: what the names begin with.
        names: those that are drawn.
    """
    pictures = {name: png for name in names if (png := _png(results, name))}
    for name, png in pictures.items():
        (folder / f"{prefix}{name}.png").write_bytes(png)
    return pictures


def _png(results: Results, name: str) -> bytes:
    """A figure as PNG; empty where there is nothing to draw."""
    figure = {"points": points_figure, "curves": curves_figure, "heads": heads_figure}[name](results)
    return b"" if figure is None else figure_png(figure)


def check_report(out: Path) -> None:
    """Raises UserError if the report would take the place of other files in ``out``."""
    check_place(out / PAGE_FILE, [TABLES_FILE, *(f"{name}.png" for name in PICTURES)])


def write_report(results: Results, out: Path) -> Path:
    """Write ``results.md``, ``points.png``, ``curves.png``, ``heads.png`` and the page ``experiment.html``; gives the page's path.

    Raises:
        UserError: no run is finished, or the folder cannot be written.
    """
    if not results.runs:
        raise UserError(
            f"no run of {results.experiment.name} is finished in {out}; run the same command again to go on"
        )
    make_folder(out)
    pictures = {name: png for name in FIGURES if (png := png_or_note(name, partial(_png, results, name)))}
    try:
        (out / PAGE_FILE).write_text(_page(results, pictures), encoding="utf-8")
        (out / TABLES_FILE).write_text(markdown(results), encoding="utf-8")
        for name, png in pictures.items():
            (out / f"{name}.png").write_bytes(png)
    except OSError as error:
        raise UserError(f"cannot write {out}: {error.strerror}") from error
    return out / PAGE_FILE


def _page(results: Results, pictures: dict[str, bytes]) -> str:
    arms = [
        [arm.name, arm.what, ", ".join(f"{key}={value}" for key, value in arm.changes.items())] for arm in results.arms
    ]
    shown = {
        name: Picture(PICTURES[name], f"{PICTURES[name]}; a colour for each arm", png) for name, png in pictures.items()
    }
    return render_page(
        "experiment.html.j2",
        title=results.experiment.title,
        headlines=headlines_of(results),
        arms=TextTable("Arms", ["arm", "what", "changes"], arms),
        tables=list(tables(results)),
        unfinished=_unfinished(results),
        curves=curves_board(results, shown.pop("curves")),
        attended=attention_steps([next(iter(by_seed.values())) for by_seed in results.runs.values() if by_seed]),
        pictures=list(shown.values()),
    )


def headlines_of(results: Results) -> list[Headline]:
    """What was declared: the difference and the verdict of each primary measure; without, the first metric of each arm."""
    declared = [
        Headline(
            f"{verdict.measure.metric}: {analysis.arm} - {analysis.reference}",
            _one_interval(verdict.difference),
            verdict.words,
        )
        for analysis in results.experiment.analysis
        for verdict in verdicts(results, analysis)
    ]
    metric = next(iter(results.values), None)
    if declared or metric is None:
        return declared
    return [Headline(arm.name, format_summary(results.summary(metric, arm.name)), metric) for arm in results.arms]
