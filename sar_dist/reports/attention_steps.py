"""The attention of the fixed validation images over training: what a run kept of each step, for a slider over the steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib import colormaps
from matplotlib.colors import to_hex

from sar_dist.observe import COMPONENT_COLORS, FURTHER_COLOR, LEVELS
from sar_dist.reports.kept import FIELDS, kept_records, read_sample
from sar_dist.reports.rendering import Picture
from sar_dist.reports.runs import ReportedRun

MAP_BYTES = 1_500_000  # of the page's five million, for the maps of all runs together


@dataclass(frozen=True)
class AttendedRun:
    """What one run kept.

    Attributes:
        name: of the run.
        heads: their number.
        records: of each shown step, in order.
        images: numbers of its images among those of all runs.
    """

    name: str
    heads: int
    records: Sequence[dict[str, Any]]
    images: Sequence[int]


@dataclass(frozen=True)
class AttentionSteps:
    """The slider of a page.

    Attributes:
        runs: those that kept their attention.
        images: of all runs, each once; the title is its class.
        left_out: steps for which the page has no room.
    """

    runs: Sequence[AttendedRun]
    images: Sequence[Picture]
    left_out: int

    @property
    def steps(self) -> list[int]:
        """At which any of the runs kept something."""
        return sorted({record["step"] for run in self.runs for record in run.records})

    def data(self) -> dict[str, Any]:
        """What the script shows, as values that JSON has."""
        viridis = colormaps["viridis"].resampled(2 * LEVELS)
        return {
            "levels": LEVELS,
            "components": [*COMPONENT_COLORS, FURTHER_COLOR],
            "similarity": [to_hex(viridis(level)) for level in range(2 * LEVELS)],
            "steps": self.steps,
            "runs": [
                {
                    "images": list(run.images),
                    "heads": run.heads,
                    "records": [
                        {name: record[name] for name in ("step", *FIELDS["attention"]) if name != "samples"}
                        for record in run.records
                    ],
                }
                for run in self.runs
            ],
        }


def attention_steps(runs: Sequence[ReportedRun], room: int = MAP_BYTES) -> AttentionSteps | None:
    """The slider of the runs, thinned out to ``room`` bytes of maps; None where no run kept any.

    Of each run those steps are shown whose images are the ones of its newest step.
    """
    found = [(run, records) for run in runs if (records := kept_records(run, "attention"))]
    if not found:
        return None
    images: dict[tuple[int, bytes], Picture] = {}
    shown, left_out = [], 0
    for run, records in found:
        newest = records[-1]
        same = [record for record in records if record["samples"] == newest["samples"]]
        most = max(1, room // len(found) // len(newest["maps"]))
        chosen = evenly(same, most)
        left_out += len(same) - len(chosen)
        keys = [_add_image(images, run, *pair) for pair in zip(newest["samples"], newest["labels"], strict=True)]
        places = list(images)
        heads = len(newest["entropies"][0])
        shown.append(AttendedRun(run.name, heads, chosen, [places.index(key) for key in keys]))
    return AttentionSteps(shown, list(images.values()), left_out)


def evenly(records: Sequence[dict[str, Any]], most: int) -> list[dict[str, Any]]:
    """At most so many of them, evenly spread, the last one always."""
    if len(records) <= most:
        return list(records)
    places = {round((number + 1) * len(records) / most) - 1 for number in range(most)}
    return [records[place] for place in sorted(places)]


def _add_image(
    images: dict[tuple[int, bytes], Picture], run: ReportedRun, sample: int, label: str
) -> tuple[int, bytes]:
    """The key of a sample's image, which two runs share if it is the same file."""
    content = read_sample(run, sample)
    title = f"{label}, sample {sample:,}"
    images.setdefault((sample, content), Picture(title, f"the validation image {title}", content, "image/jpeg"))
    return sample, content
