"""Weights & Biases, online or offline ($WANDB_MODE=offline). https://docs.wandb.ai"""

from __future__ import annotations

import importlib
import secrets
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sar_dist.errors import UserError, text_of
from sar_dist.files import write_durably
from sar_dist.observe.destination import Destination, LoggedRun
from sar_dist.observe.optional import require

RUN_ID_FILE = "wandb_run_id"


class WeightsAndBiases(Destination):
    """One W&B run for all starts of a run: its id is kept in the run directory.

    W&B takes steps in rising order only. What an earlier start has sent of the steps that are repeated after a resume
    stays, and is the same to rounding.
    """

    name = "wandb"

    def __init__(self, run: LoggedRun) -> None:
        super().__init__(run)
        self._first_step = 0
        self._wandb: Any = None
        self._session: Any = None

    @classmethod
    def check(cls) -> None:
        require(cls.name, "wandb")

    def start(self, config: Mapping[str, Any], step: int) -> str:
        try:
            self._wandb = importlib.import_module("wandb")
            self._session = self._wandb.init(
                id=self._run_id(),
                resume="allow",
                project=self.run.project,
                name=self.run.name,
                dir=str(self.run.directory),
                config=dict(config),
                # Its lines would tear the progress bar, and it need not copy what the program prints.
                settings=self._wandb.Settings(silent=True, console="off"),
            )
        except Exception as error:  # of its own kinds, and those of its network client
            raise UserError(
                f"log.to: wandb does not start: {text_of(error) or type(error).__name__}; see to that (`wandb login`), set WANDB_MODE=offline, or leave it out"
            ) from error
        self._first_step = self._session.step
        offline = self._session.offline
        place = f"offline; upload with: wandb sync {self.run.directory}/wandb/*" if offline else self._session.url
        there = f", which has the steps before {self._first_step}" if self._first_step else ""
        return f"W&B run {self._session.id}{there}: {place}"

    def metrics(self, step: int, now: float, values: Mapping[str, float]) -> None:
        self._log(step, dict(values))

    def figure(self, step: int, name: str, pixels: NDArray[np.uint8]) -> None:
        self._log(step, {name: self._wandb.Image(pixels)})

    def histograms(self, step: int, values: Mapping[str, NDArray[Any]]) -> None:
        self._log(step, {tag: self._wandb.Histogram(value) for tag, value in values.items()})

    def result(self, step: int, config: Mapping[str, Any], final: Mapping[str, float]) -> None:
        self._session.summary.update(dict(final))

    def close(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            session.finish(
                exit_code=0 if sys.exc_info()[0] is None else 1
            )  # a run that an error ends is shown as failed

    def _log(self, step: int, values: dict[str, Any]) -> None:
        if step >= self._first_step:
            self._session.log(values, step=step)

    def _run_id(self) -> str:
        """The id of this run's W&B run, which is made up at its first start."""
        file = self.run.directory / RUN_ID_FILE
        if file.is_file() and (recorded := file.read_text().strip()):
            return recorded
        made_up = secrets.token_hex(4)
        write_durably(file, made_up + "\n")
        return made_up
