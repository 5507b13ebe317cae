"""What went wrong on the way: starts, skipped steps, images that could not be read."""

from __future__ import annotations

from collections.abc import Sequence

from sar_dist.observe import read_records
from sar_dist.reports.rendering import TextTable
from sar_dist.reports.runs import ReportedRun

BAD_IMAGES_FILE = "bad_images.jsonl"
NAMED_IMAGES = 10
_NOTE = "Skipped steps had a gradient that was not finite. Replaced images could not be decoded; another one was taken."


def incidents_table(runs: Sequence[ReportedRun]) -> TextTable:
    """A column for each run."""
    columns = [_incidents(run) for run in runs]
    rows = [[name, *(column[name] for column in columns)] for name in columns[0]]
    return TextTable("Incidents", ["", *(run.name for run in runs)], rows, _NOTE)


def _incidents(run: ReportedRun) -> dict[str, str]:
    train, validation = run.last("train"), run.last("val")
    starts = [str(start.get("started", "?")) for start in run.starts]
    unread = {name: result.data.skipped for name, result in run.transfer.items() if result.data.skipped}
    return {
        "starts": f"{len(starts)}: {', '.join(starts)}" if len(starts) > 1 else str(len(starts) or "not recorded"),
        "skipped steps": _count(train.get("skipped_steps")),
        "replaced images": _count(train.get("bad_images")) + _named(run),
        "unreadable validation images": _count(validation.get("bad_images")),
        "unreadable images of evaluations": ", ".join(f"{name}: {count}" for name, count in unread.items()) or "0",
        "evaluations without a result yet": ", ".join(run.unfinished) or "0",
    }


def _count(value: float | None) -> str:
    return "not recorded" if value is None else f"{float(value):,.0f}"


def _named(run: ReportedRun) -> str:
    """The first of the replaced images by name; images that were met again are named once."""
    lines = read_records(run.path / BAD_IMAGES_FILE)
    names = list(dict.fromkeys(str(line["key"]) for line in lines if "key" in line))
    if not names:
        return ""
    further = f" and {len(names) - NAMED_IMAGES} further ones" if len(names) > NAMED_IMAGES else ""
    return f": {', '.join(names[:NAMED_IMAGES])}{further}"
