"""Training images that could not be decoded: noted in bad_images.jsonl by the process that met them, counted over all."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch

from sar_dist import distributed
from sar_dist.observe import WaitingLines, encode_line
from sar_dist.output import warn


class BadImages:
    """What a disk does not take waits in memory, is said once for all processes, and training goes on.

    Args:
        path: the file, to which every process appends its own.
        device: on which processes add up.

    ``unrecorded`` is how many images the file lacks, on all processes, as of the last ``add_up``.
    """

    def __init__(self, path: Path, device: torch.device) -> None:
        self.path = path
        self.unrecorded = 0
        self._device = device
        self._new = 0
        self._lines = WaitingLines()
        self._problem: str | None = None
        self._was_said = False

    def note(self, count: int, keys: Iterable[str], step: int) -> None:
        """Count and note the bad images of a micro-batch of ``step`` on this process."""
        self._new += count
        for key in keys:
            problem = self._lines.append(self.path, encode_line({"step": step, "key": key}))
            if problem is not None:
                self._problem = f"{key} cannot be noted in {self.path}: {problem.strerror or problem}"

    def add_up(self) -> int:
        """Bad images on all processes since the last call. Call on every process."""
        self._lines.flush()
        mine = torch.tensor([self._new, len(self._lines) + self._lines.dropped], device=self._device)
        new, self.unrecorded = map(int, distributed.all_reduce_sum(mine).tolist())
        self._new = 0
        if self.unrecorded and not self._was_said:
            self._was_said = True
            problem = next(filter(None, distributed.gather_objects(self._problem)))
            if distributed.is_main():
                warn(f"warning: {problem}; it waits in memory, and training goes on")
        return new
