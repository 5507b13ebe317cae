"""TensorBoard's event files, in the run directory."""

from __future__ import annotations

import contextlib
import functools
import json
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tensorboard.summary.writer import event_file_writer
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from sar_dist.observe.destination import Destination, LoggedRun
from sar_dist.observe.tensorboard_charts import custom_scalars_layout
from sar_dist.setting_trees import leaves

TENSORBOARD_FOLDER = "tensorboard"


class TensorBoard(Destination):
    """Scalars, pictures, histograms and hyper-parameters below ``tensorboard/``; each entry is on disk at once."""

    name = "tensorboard"
    errors = (OSError,)

    def __init__(self, run: LoggedRun) -> None:
        super().__init__(run)
        self._purge_step: int | None = None
        self._writer: SummaryWriter | None = None

    def start(self, config: Mapping[str, Any], step: int) -> None:
        """Open nothing yet; hide the steps that a killed process logged beyond its last checkpoint."""
        self._purge_step = step + 1

    def metrics(self, step: int, now: float, values: Mapping[str, float]) -> None:
        def write(writer: SummaryWriter) -> None:
            for tag, value in values.items():
                writer.add_scalar(tag, float(value), step, walltime=now)

        self._write(write)

    def figure(self, step: int, name: str, pixels: NDArray[np.uint8]) -> None:
        self._write(lambda writer: writer.add_image(name, pixels, step, dataformats="HWC"))

    def histograms(self, step: int, values: Mapping[str, NDArray[Any]]) -> None:
        def write(writer: SummaryWriter) -> None:
            for tag, value in values.items():
                writer.add_histogram(tag, value, step, bins="auto")

        self._write(write)

    def result(self, step: int, config: Mapping[str, Any], final: Mapping[str, float]) -> None:
        """Fill the hyper-parameters tab, where TensorBoard shows the first values that it finds."""

        def write(writer: SummaryWriter) -> None:
            for summary in hparams(flatten(config), dict(final)):
                writer._get_file_writer().add_summary(summary)
            for name, value in final.items():
                writer.add_scalar(name, value, step)

        self._write(write)

    def close(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()

    def _write(self, write: Callable[[SummaryWriter], None]) -> None:
        """Call ``write`` with the writer, opened when it is first needed, and flush it."""
        _let_worker_end_silently()
        try:
            if self._writer is None:
                folder = self.run.directory / TENSORBOARD_FOLDER
                self._writer = SummaryWriter(str(folder), purge_step=self._purge_step)
                self._writer.add_custom_scalars(custom_scalars_layout(self.run.quantities))
            write(self._writer)
            self._writer.flush()
            self._purge_step = None
        except OSError:
            # Its thread has died with the error, for good: the next entry opens a new file.
            with contextlib.suppress(OSError):
                self.close()
            raise


@functools.cache
def _let_worker_end_silently() -> None:
    """Keep TensorBoard's writer threads from printing a traceback when the disk fails.

    Such a thread stores its error, which the next call raises in the caller's thread, where ``RunLogger`` counts it;
    it then raises the error a second time, to nobody but ``threading.excepthook``.
    """
    run = event_file_writer._AsyncWriterThread.run

    def run_silently(worker: event_file_writer._AsyncWriterThread) -> None:
        with contextlib.suppress(OSError):
            run(worker)

    event_file_writer._AsyncWriterThread.run = run_silently


def flatten(config: Mapping[str, Any]) -> dict[str, bool | int | float | str]:
    """Nested settings as one level with dotted names; values that TensorBoard cannot show become JSON text."""
    return {
        key: value if isinstance(value, bool | int | float | str) else json.dumps(value, default=str)
        for key, value in leaves(config)
    }
