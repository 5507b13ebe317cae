"""The hardest classes of the last validation of each run, with images that are taken for another class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sar_dist.reports.kept import kept_records, read_sample
from sar_dist.reports.rendering import Picture
from sar_dist.reports.runs import ReportedRun

EXAMPLE_BYTES = 600_000  # of the page's five million, for the images of all runs together


@dataclass(frozen=True)
class HardClass:
    """A row.

    Attributes:
        name: of the class.
        accuracy: such as "31.0 % of 50".
        taken_for: such as "tram (12), bus (3)".
        examples: images of it; their title is the class that they are taken for.
    """

    name: str
    accuracy: str
    taken_for: str
    examples: Sequence[Picture]


@dataclass(frozen=True)
class HardestClasses:
    """The table of a run.

    Attributes:
        run: its name.
        step: of the validation.
        classes: how many there are in all.
        rows: the hardest ones, the hardest first.
    """

    run: str
    step: int
    classes: int
    rows: Sequence[HardClass]


def hardest_classes(runs: Sequence[ReportedRun], room: int = EXAMPLE_BYTES) -> list[HardestClasses]:
    """A table for each run that kept its hardest classes; images as far as ``room`` bytes go, of the hardest first."""
    found = [(run, records[-1]) for run in runs if (records := kept_records(run, "classes"))]
    return [
        HardestClasses(run.name, newest["step"], newest["classes"], _rows(run, newest["hardest"], room // len(found)))
        for run, newest in found
    ]


def _rows(run: ReportedRun, hardest: Sequence[Mapping[str, Any]], room: int) -> list[HardClass]:
    rows = []
    for each in hardest:
        examples = []
        for sample, predicted in each["examples"]:
            content = read_sample(run, sample)
            if content and len(content) <= room:
                room -= len(content)
                alt = f"sample {sample:,} of {each['name']}, taken for {predicted}"
                examples.append(Picture(predicted, alt, content, "image/jpeg"))
        accuracy = f"{100 * each['right'] / each['images']:.1f} % of {each['images']:,}"
        taken_for = ", ".join(f"{name} ({count:,})" for name, count in each["taken_for"])
        rows.append(HardClass(each["name"], accuracy, taken_for, examples))
    return rows
