"""TensorBoard's event files, in the run directory."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tensorboard.summary.writer import event_file_writer
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from sar_dist.errors import text_of
from sar_dist.observe.destination import Destination, EntryWaits, LoggedRun
from sar_dist.observe.tensorboard_charts import custom_scalars_layout
from sar_dist.setting_trees import leaves

TENSORBOARD_FOLDER = "tensorboard"
_EVENT_FILES = "events.*"
_MOST_BYTES = 64 << 20
_BYTES_PER_VALUE = 200  # of a scalar that waits, with its name, roughly
Entry = Callable[[SummaryWriter], None]


class TensorBoard(Destination):
    """Scalars, pictures, histograms and hyper-parameters below ``tensorboard/``; each entry is on disk at once.

    Scalars and the result wait in memory for a disk that fails; pictures and histograms, which are large, are lost then. Each
    entry is in the event files whole, once, or not at all: what is behind half a record is never read.
    """

    name = "tensorboard"
    errors = (OSError,)

    def __init__(self, run: LoggedRun, most_bytes: int = _MOST_BYTES) -> None:
        super().__init__(run)
        self._files = EventFiles(run)
        self._most_bytes = most_bytes
        self._bytes = 0
        self._waiting: deque[tuple[Entry, int]] = deque()

    def start(self, config: Mapping[str, Any], step: int) -> None:
        """Open nothing yet; hide the steps that a killed process logged beyond its last checkpoint."""
        self._files.purge_step = step + 1

    def metrics(self, step: int, now: float, values: Mapping[str, float]) -> None:
        def write(writer: SummaryWriter) -> None:
            for tag, value in values.items():
                writer.add_scalar(tag, float(value), step, walltime=now)

        self._write_or_keep(write, _BYTES_PER_VALUE * len(values))

    def figure(self, step: int, name: str, pixels: NDArray[np.uint8]) -> None:
        self._write(lambda writer: writer.add_image(name, pixels, step, dataformats="HWC"))

    def histograms(self, step: int, values: Mapping[str, NDArray[Any]]) -> None:
        def write(writer: SummaryWriter) -> None:
            for tag, value in values.items():
                writer.add_histogram(tag, value, step, bins="auto")

        self._write(write)

    def result(self, step: int, config: Mapping[str, Any], final: Mapping[str, float]) -> None:
        """Fill the hyper-parameters tab, where TensorBoard shows the first values that it finds."""
        now, settings = time.time(), flatten(config)

        def write(writer: SummaryWriter) -> None:
            for summary in hparams(settings, dict(final)):
                writer._get_file_writer().add_summary(summary, walltime=now)
            for name, value in final.items():
                writer.add_scalar(name, value, step, walltime=now)

        self._write_or_keep(write, _BYTES_PER_VALUE * (len(final) + len(settings)))

    def flush(self) -> None:
        with contextlib.suppress(OSError):  # it has been said
            self._write_waiting()

    def close(self) -> None:
        self.flush()
        self.lost += len(self._waiting)
        self._waiting.clear()
        self._files.close()

    def _write(self, write: Entry) -> None:
        """Write an entry after those that wait."""
        self._write_waiting()
        self._files.append(write)

    def _write_or_keep(self, write: Entry, size: int) -> None:
        self._waiting.append((write, size))
        self._bytes += size
        try:
            self._write_waiting()
        except OSError as error:
            while self._bytes > self._most_bytes:
                self._bytes -= self._waiting.popleft()[1]
                self.lost += 1
            raise EntryWaits(text_of(error)) from error

    def _write_waiting(self) -> None:
        while self._waiting:
            write, size = self._waiting[0]
            self._files.append(write)
            self._waiting.popleft()
            self._bytes -= size


class EventFiles:
    """The event files of one start: another one is begun after each failure of the disk.

    Attributes:
        purge_step: TensorBoard hides what earlier files hold of this step and later ones; None: nothing.
    """

    def __init__(self, run: LoggedRun) -> None:
        self.purge_step: int | None = None
        self._run = run
        self._writer: SummaryWriter | None = None
        self._file: Path | None = None
        self._size = 0  # of whole entries, in bytes

    def append(self, write: Entry) -> None:
        """Write an entry and flush it. Raises OSError, and then nothing of it is in any file, as far as the disk allows."""
        _let_worker_end_silently()
        folder = self._run.directory / TENSORBOARD_FOLDER
        before = set(folder.glob(_EVENT_FILES)) if self._writer is None else set()
        try:
            if self._writer is None:
                self._size = 0
                self._writer = SummaryWriter(str(folder), purge_step=self.purge_step)
                self._writer.add_custom_scalars(custom_scalars_layout(self._run.quantities))
            write(self._writer)
            self._writer.flush()
            if self._file is None:
                self._file = next(iter(set(folder.glob(_EVENT_FILES)) - before), None)
            self._size = self._file.stat().st_size if self._file is not None else 0
            self.purge_step = None
        except OSError:
            # Its thread has died with the error, for good: the next entry opens a new file.
            file = self._file
            with contextlib.suppress(OSError):
                self.close()
            with contextlib.suppress(OSError):
                if file is not None:
                    os.truncate(file, self._size)
                else:  # there is no entry in it yet
                    for begun in set(folder.glob(_EVENT_FILES)) - before:
                        begun.unlink()
            raise

    def close(self) -> None:
        """Close the file."""
        writer, self._writer, self._file = self._writer, None, None
        if writer is not None:
            writer.close()


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
