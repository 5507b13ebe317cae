"""What was found: one table on the terminal, one JSON file, one Markdown file for docs/benchmarks_gpu.md."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.table import Table

from sar_dist.files import write_durably

Status = Literal["ok", "failed", "skipped"]
STYLES = {"ok": "green", "failed": "bold red", "skipped": "yellow"}


@dataclass
class Grid:
    """A small table: names of its columns, and rows of as many cells."""

    columns: list[str]
    rows: list[list[str]] = field(default_factory=list)


@dataclass
class Report:
    """What a part found.

    Attributes:
        name, title: the part.
        status: "failed" if anything in it failed or is not as it should be.
        summary: the most important in one line.
        problems: what failed, a line each.
        grid: the figures for a reader.
        data: all figures, for a program.
        commands: that repeat it.
        seconds: that it took.
    """

    name: str
    title: str = ""
    status: Status = "ok"
    summary: str = ""
    problems: list[str] = field(default_factory=list)
    grid: Grid | None = None
    data: Any = None
    commands: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def fail(self, problem: str) -> None:
        """Note a problem."""
        self.status = "failed"
        self.problems.append(problem)


def print_report(report: Report, console: Console) -> None:
    """A part's figures and problems, once it has ended."""
    if report.grid is not None and report.grid.rows:
        table = Table(title=report.title, title_justify="left")
        for index, column in enumerate(report.grid.columns):
            table.add_column(column, justify="right" if index else "left")
        for row in report.grid.rows:
            table.add_row(*row)
        console.print(table)
    for problem in report.problems:
        console.print(f"{report.name}: {problem}", style="red", markup=False, highlight=False)


def print_summary(reports: Sequence[Report], console: Console) -> None:
    """One row for each part."""
    table = Table(title="gpu_check", title_justify="left")
    for column in ("part", "status", "seconds", "found"):
        table.add_column(column, justify="right" if column == "seconds" else "left", overflow="fold")
    for report in reports:
        found = "; ".join([report.summary, *report.problems[:2]] if report.summary else report.problems[:2])
        more = f"; {len(report.problems) - 2} more problems" if len(report.problems) > 2 else ""
        status = f"[{STYLES[report.status]}]{report.status}[/]"
        table.add_row(report.name, status, f"{report.seconds:.0f}", _plain(found + more))
    console.print(table)


def _plain(text: str) -> str:
    """Text in which rich sees no markup."""
    return text.replace("[", r"\[")


def write_reports(reports: Sequence[Report], folder: Path, command: str) -> tuple[Path, Path]:
    """Write gpu_check.json and gpu_check.md into ``folder``; called after every part, so that no figure is lost."""
    written = datetime.now(UTC).isoformat(timespec="seconds")
    document = {"written": written, "command": command, "parts": [asdict(report) for report in reports]}
    as_json, as_markdown = folder / "gpu_check.json", folder / "gpu_check.md"
    for path, text in (
        (as_json, json.dumps(document, indent=2) + "\n"),
        (as_markdown, markdown(reports, command, written)),
    ):
        write_durably(path, text)
    return as_json, as_markdown


def markdown(reports: Sequence[Report], command: str, written: str) -> str:
    """The reports as a section of docs/benchmarks_gpu.md."""
    lines = [f"## {written[:10]}", "", f"`{command}`", ""]
    rows = [[report.name, report.status, f"{report.seconds:.0f}", report.summary] for report in reports]
    lines += _markdown_table(Grid(["part", "status", "seconds", "found"], rows))
    for report in reports:
        if report.grid is None and not report.problems:
            continue
        lines += [f"### {report.title}", ""]
        lines += [f"    {line}" for line in report.commands] + ([""] if report.commands else [])
        if report.grid is not None and report.grid.rows:
            lines += _markdown_table(report.grid)
        lines += [f"- **{problem}**" for problem in report.problems] + ([""] if report.problems else [])
    return "\n".join(lines)


def _markdown_table(grid: Grid) -> list[str]:
    rows = [[cell.replace("|", r"\|").replace("\n", " ") for cell in row] for row in [grid.columns, *grid.rows]]
    ruler = ["---", *["---:" for _ in grid.columns[1:]]]
    return [f"| {' | '.join(row)} |" for row in [rows[0], ruler, *rows[1:]]] + [""]
