"""Where a run's metrics can go besides metrics.jsonl: what such a destination has to do."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from sar_dist.observe.quantities import QUANTITIES
from sar_dist.quantities import Quantity


@dataclass(frozen=True)
class LoggedRun:
    """The run that is logged.

    Attributes:
        directory: the run directory, where a destination keeps what it needs to go on after a resume.
        name: of the run.
        project: what destinations gather runs under.
        quantities: what a first page shows.
    """

    directory: Path
    name: str
    project: str = "sar_dist"
    quantities: tuple[Quantity, ...] = QUANTITIES


class EntryWaits(Exception):
    """An entry could not be handed over yet: the destination keeps it, and tries again before the next one."""


class Destination:
    """One of ``log.to``. Made on every process, started and called on the main one alone.

    After ``start``, an error of one of the kinds ``errors`` costs the entry; it is counted, and training goes on. An
    ``EntryWaits`` costs none.

    Attributes:
        run: the run that is logged.
        lost: entries that had waited, and were given up.
    """

    name: ClassVar[str]
    errors: ClassVar[tuple[type[Exception], ...]] = (Exception,)
    lost: int = 0

    def __init__(self, run: LoggedRun) -> None:
        self.run = run

    @classmethod
    def check(cls) -> None:
        """Find what is missing on this machine, at once and without a network. Raises UserError."""

    def start(self, config: Mapping[str, Any], step: int) -> str | None:
        """Begin, or continue the same run where an earlier start left it, and say where it is to be seen.

        Args:
            config: the run's configuration.
            step: of the checkpoint that training resumes from, whose later entries are about to be repeated; -1 when it
                starts from the beginning.

        Raises:
            UserError: it does not work.
        """
        return None

    def metrics(self, step: int, now: float, values: Mapping[str, float]) -> None:
        """Log ``values``, such as {"train/loss": 2.3}, of optimizer step ``step``, at ``now`` in seconds since 1970."""
        raise NotImplementedError

    def figure(self, step: int, name: str, pixels: NDArray[np.uint8]) -> None:
        """Log a picture, height x width x 3; one that shows no pictures leaves them in the run directory alone."""

    def histograms(self, step: int, values: Mapping[str, NDArray[Any]]) -> None:
        """Log the distribution of each of ``values``, flat arrays of finite numbers; does nothing by default."""

    def result(self, step: int, config: Mapping[str, Any], final: Mapping[str, float]) -> None:
        """Log a finished run's configuration, nested, and result, such as {"final/top1": 71.2}."""
        self.metrics(step, time.time(), final)

    def flush(self) -> None:
        """Try to hand over what waits."""

    def close(self) -> None:
        """Hand over what is pending, or count it as ``lost``."""
