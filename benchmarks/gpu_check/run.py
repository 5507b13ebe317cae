"""Runs the parts one after the other, each within its share of the time; one that fails does not keep the next from running."""

from __future__ import annotations

import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.gpu_check.processes import Finished, Started
from benchmarks.gpu_check.report import Report

if TYPE_CHECKING:
    from benchmarks.gpu_check.parts import Part

ROOT = Path(__file__).resolve().parents[2]


class CannotGoOn(Exception):
    """A part lacks what it needs; its message is the reason."""


@dataclass
class Workplace:
    """Where a part works, on what, and how long it may.

    Attributes:
        folder: for everything that is written; absolute.
        device: "cuda" or "cpu", where everything is tiny.
        deadline: ``time.monotonic()`` at which the part must have ended.
    """

    folder: Path
    device: str
    deadline: float = field(default=float("inf"))

    @property
    def on_gpu(self) -> bool:
        return self.device == "cuda"

    def remaining(self) -> float:
        """Seconds that the part has left."""
        return max(0.0, self.deadline - time.monotonic())

    def start(self, name: str, arguments: Sequence[str], environment: Mapping[str, str] | None = None) -> Started:
        """Start ``python ARGUMENTS`` from the repository's root, on this device."""
        chosen = {} if self.on_gpu else {"DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
        python_path = {"PYTHONPATH": str(ROOT)}
        command = [sys.executable, *arguments]
        return Started(
            command, self.folder / "logs" / f"{name}.log", ROOT, {**chosen, **python_path, **(environment or {})}
        )

    def run(self, name: str, arguments: Sequence[str], environment: Mapping[str, str] | None = None) -> Finished:
        """The same, until it ends or the part's time is over."""
        return self.start(name, arguments, environment).wait(self.remaining())

    def demo_shards(self) -> Path:
        """A small demo set, made once.

        Raises:
            CannotGoOn: it cannot be made.
        """
        sizes = ("512", "128") if self.on_gpu else ("128", "32")
        return self._made("demo", ["--train", sizes[0], "--val", sizes[1], "--image-size", "64"])

    def large_shards(self) -> Path:
        """Images of the size of ImageNet's, for the loader alone.

        Raises:
            CannotGoOn: they cannot be made.
        """
        if not self.on_gpu:
            return self.demo_shards()
        return self._made("large", ["--train", "3000", "--val", "64", "--image-size", "400"])

    def _made(self, name: str, options: list[str]) -> Path:
        shards = self.folder / "data" / name
        if not (shards / "val" / "manifest.json").exists():
            done = self.run(f"make_shards_{name}", ["tools/make_shards.py", "demo", str(shards), *options])
            if not done.succeeded:
                raise CannotGoOn(f"the demo data was not made: {done.problem()}")
        return shards


def run_parts(
    parts: Sequence[Part], folder: Path, device: str, minutes: float, ended: Callable[[list[Report]], None]
) -> list[Report]:
    """Run the parts in their order.

    Args:
        parts: which.
        folder: for everything that is written.
        device: "cuda" or "cpu".
        minutes: for all of them. What a part leaves of its share goes to those after it.
        ended: called after each part with all reports so far.
    """
    end, reports = time.monotonic() + 60 * minutes, []
    for index, part in enumerate(parts):
        begin = time.monotonic()
        share = part.share / sum(later.share for later in parts[index:])
        place = Workplace(folder.resolve(), device, begin + share * max(0.0, end - begin))
        report = run_part(part, place)
        report.seconds = time.monotonic() - begin
        reports.append(report)
        ended(reports)
    return reports


def run_part(part: Part, place: Workplace) -> Report:
    """One part's report, whatever happens in it."""
    report = Report(part.name, part.title)
    if part.needs_gpu and not place.on_gpu:
        report.status, report.summary = "skipped", "needs a GPU"
        return report
    if place.remaining() < 1:
        report.fail("no time was left; give --minutes, or run it alone with --only")
        return report
    try:
        part.work(place, report)
    except CannotGoOn as error:
        report.fail(str(error))
    except Exception:  # noqa: BLE001 - a fault of this tool must not cost the other parts
        report.fail("a fault of gpu_check itself: " + " / ".join(traceback.format_exc().strip().splitlines()[-3:]))
    return report
