"""One page about one run, or several side by side: curves, final figures, differences of configuration, transfer."""

from __future__ import annotations

import base64
import html
from collections.abc import Callable, Sequence

from sar_dist.observe import QUANTITIES
from sar_dist.reports.attention_page import STYLE
from sar_dist.reports.runs import ReportedRun, config_differences, final_figures
from sar_dist.reports.seeds import seeds_table

# Rows in which a difference to the baseline means something; "validation" also for terms that only the log knows.
COMPARED = ("validation", *(row for each in QUANTITIES if each.higher_is_better is not None for row in each.summed_up))


def report_page(runs: Sequence[ReportedRun], curves_png: bytes) -> str:
    """The report as one HTML page that needs no other file.

    Args:
        runs: the runs, in the order of the columns. With exactly one baseline among several runs, the figures of the
            others show the difference to it.
        curves_png: the picture of ``report_figure``.
    """
    title = "Training report: " + ", ".join(run.name for run in runs)
    final_ones = [final_figures(run) for run in runs]
    sections = [
        f"<h1>{html.escape(title)}</h1>",
        *(f"<p>{html.escape(_origin(run))}</p>" for run in runs),
        "<h2>Final figures</h2>",
        _comparison(runs, final_ones),
    ]
    transfer = [_flat_transfer(run) for run in runs]
    if any(transfer):
        sections += ["<h2>Transfer</h2>", _comparison(runs, transfer, compare=lambda _: True)]
    seeds = seeds_table(runs, [final | scores for final, scores in zip(final_ones, transfer, strict=True)])
    if seeds is not None:
        note = (
            "<p>Mean ± standard deviation over seeds; in brackets the difference to the runs without regularizer.</p>"
        )
        sections += ["<h2>Over seeds</h2>", note, html_table(*seeds)]
    differences = config_differences(list(runs))
    if differences:
        rows = [[key, *values] for key, values in differences.items()]
        sections += ["<h2>Different settings</h2>", html_table(["key", *(run.name for run in runs)], rows)]
    sections += ["<h2>Curves</h2>", html_image(curves_png, "curves of all runs")]
    return html_page(title, sections)


def html_image(png: bytes, what: str) -> str:
    """A picture inside the page itself."""
    return f'<img alt="{html.escape(what)}" src="data:image/png;base64,{base64.b64encode(png).decode()}">'


def html_page(title: str, sections: Sequence[str]) -> str:
    """A whole page, which needs no other file, of HTML ``sections``."""
    return "\n".join(
        (
            '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width">',
            f"<title>{html.escape(title)}</title><style>{STYLE}</style></head><body>",
            *sections,
            "</body></html>\n",
        )
    )


def _origin(run: ReportedRun) -> str:
    environment = run.environment
    parts = [f"{run.name}: {run.path}"]
    if environment:
        commit = str(environment.get("git_commit") or "no commit")[:12]
        changes = " with changes" if environment.get("git_changes") else ""
        parts.append(f"{environment.get('world_size')} x {environment.get('device')}")
        parts.append(f"started {environment.get('started')}, {commit}{changes}")
    return "; ".join(parts)


def _flat_transfer(run: ReportedRun) -> dict[str, float | None]:
    return {f"{task}: {metric}": value for task, results in run.transfer.items() for metric, value in results.items()}


def _is_compared(label: str) -> bool:
    return any(part in label for part in COMPARED)


def _comparison(
    runs: Sequence[ReportedRun],
    figures: Sequence[dict[str, float | None]],
    compare: Callable[[str], bool] = _is_compared,
) -> str:
    """A row for each figure that some run has; differences to the only baseline in brackets."""
    baselines = [number for number, run in enumerate(runs) if run.is_baseline]
    baseline = baselines[0] if len(baselines) == 1 and len(runs) > 1 else None
    rows = []
    for label in dict.fromkeys(label for values in figures for label in values):
        cells = []
        for number, values in enumerate(figures):
            value = values.get(label)
            reference = None if baseline in (None, number) else figures[baseline].get(label)
            difference = value - reference if value is not None and reference is not None and compare(label) else None
            cells.append(_number(value) + ("" if difference is None else f" ({_number(difference, signed=True)})"))
        if any(cell != _number(None) for cell in cells):
            rows.append([label, *cells])
    note = "" if baseline is None else f"<p>In brackets: difference to {html.escape(runs[baseline].name)}.</p>"
    return note + html_table(["", *(run.name for run in runs)], rows)


def _number(value: float | None, *, signed: bool = False) -> str:
    if value is None:
        return "–"
    if not signed and abs(value) < 1e9 and value == int(value):
        return f"{int(value):,}"
    return f"{value:+.3g}" if signed else f"{value:.4g}"


def html_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table whose first column holds the names of the rows."""

    def line(cells: Sequence[str], tag: str) -> str:
        first = f"<th>{html.escape(cells[0])}</th>"
        return f"<tr>{first}" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells[1:]) + "</tr>"

    body = "\n".join(line(row, "td") for row in rows)
    return f'<div class="wide"><table>\n{line(header, "th")}\n{body}\n</table></div>'
