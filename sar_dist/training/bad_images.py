"""Training images that could not be decoded: noted in bad_images.jsonl by the process that met them, counted over all."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import torch

from sar_dist import distributed
from sar_dist.output import warn


class BadImages:
    """What a disk does not take is counted, said once for all processes, and training goes on.

    Args:
        path: the file, to which every process appends its own.
        device: on which processes add up.

    ``unrecorded`` is how many images the file lacks since this start, on all processes, as of the last ``add_up``.
    """

    def __init__(self, path: Path, device: torch.device) -> None:
        self.path = path
        self.unrecorded = 0
        self._device = device
        self._new = 0
        self._new_unrecorded = 0
        self._problem: str | None = None

    def note(self, count: int, keys: Iterable[str], step: int) -> None:
        """Count and note the bad images of a micro-batch of ``step`` on this process."""
        self._new += count
        for key in keys:
            try:
                with self.path.open("a") as stream:
                    stream.write(json.dumps({"step": step, "key": key}) + "\n")
            except OSError as error:
                self._new_unrecorded += 1
                self._problem = f"{key} cannot be noted in {self.path}: {error.strerror}"

    def add_up(self) -> int:
        """Bad images on all processes since the last call. Call on every process."""
        mine = torch.tensor([self._new, self._new_unrecorded], device=self._device)
        new, unrecorded = map(int, distributed.all_reduce_sum(mine).tolist())
        self._new = self._new_unrecorded = 0
        if unrecorded and not self.unrecorded:
            problem = next(filter(None, distributed.gather_objects(self._problem)))
            if distributed.is_main():
                warn(f"warning: {problem}; training goes on (further ones are only counted)")
        self.unrecorded += unrecorded
        return new
