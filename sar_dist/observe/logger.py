"""What a run leaves behind for people to look at: TensorBoard, metrics.jsonl, figures, and the progress on stdout."""

from __future__ import annotations

import contextlib
import functools
import json
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray
from PIL import Image
from tensorboard.summary.writer import event_file_writer
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from sar_dist.files import atomic_path, atomic_write
from sar_dist.observe.progress import ProgressReporter
from sar_dist.observe.quantities import QUANTITIES
from sar_dist.observe.records import RESERVED, append_record, read_records, truncate_records
from sar_dist.observe.tensorboard_charts import custom_scalars_layout
from sar_dist.observe.trace import TRACE_SUFFIX
from sar_dist.output import warn
from sar_dist.quantities import Quantity
from sar_dist.setting_trees import leaves

METRICS_FILE = "metrics.jsonl"
TENSORBOARD_FOLDER = "tensorboard"
FIGURES_FOLDER = "figures"


class RunLogger:
    """Writes a run's metrics and figures into its directory and its progress to stdout.

    Nothing here stops training: when the disk, TensorBoard or stdout fails (OSError), the entry is lost, ``failures``
    goes up by one, the first failure is said on stderr, and the next entry is tried again.

    Args:
        directory: the run directory.
        enabled: False makes every method do nothing; every process but the one with rank 0 passes False.
        total_steps: optimizer steps of the whole run, the end of the progress bar.
        description: name of the run in the progress bar.
        quantities: what TensorBoard's first page shows.
    """

    def __init__(
        self,
        directory: Path,
        *,
        enabled: bool,
        total_steps: int,
        description: str,
        quantities: Iterable[Quantity] = QUANTITIES,
    ) -> None:
        self.failures = 0
        self._directory = Path(directory)
        self._enabled = enabled
        self._quantities = tuple(quantities)
        self._purge_step: int | None = None
        self._last_step = 0
        self._writer: SummaryWriter | None = None
        self._progress = ProgressReporter(total_steps, description)

    def truncate_after(self, step: int) -> None:
        """Forget every entry of later steps than ``step``, which training is about to repeat.

        Call it before the first entry: with the step of the checkpoint that training resumes from, or with -1 when it
        starts from the beginning. The curves of a run that was killed and resumed are then those of an unbroken one.

        Raises:
            RuntimeError: an entry has been written already.
        """
        if self._writer is not None:
            raise RuntimeError("truncate_after() comes before the first entry")
        if self._enabled:
            self._purge_step = step + 1
            self._attempt(lambda: truncate_records(self._directory / METRICS_FILE, step))

    def metrics(self, step: int, values: Mapping[str, float], prefix: str = "train") -> None:
        """Write ``values``, if any, as TensorBoard scalars ``prefix/name`` and as one line of metrics.jsonl, at once.

        Raises:
            ValueError: a metric is called "step", "prefix" or "time".
        """
        if not self._enabled or not values:
            return
        self._last_step = max(self._last_step, step)
        now = time.time()
        self._attempt(lambda: append_record(self._directory / METRICS_FILE, step, prefix, now, values))

        def write(writer: SummaryWriter) -> None:
            for name, value in values.items():
                writer.add_scalar(f"{prefix}/{name}", float(value), step, walltime=now)

        self._tensorboard(write)

    def recorded(self, step: int, prefix: str) -> dict[str, float] | None:
        """The metrics that metrics.jsonl holds of ``step`` and ``prefix``, as numbers; None if it has none."""
        found = None
        for record in read_records(self._directory / METRICS_FILE):
            if record["step"] == step and record.get("prefix") == prefix:
                found = {name: float(value) for name, value in record.items() if name not in RESERVED}
        return found

    def progress(self, step: int, postfix: Mapping[str, str | float]) -> None:
        """Report progress on stdout: the bar moves on a terminal, otherwise a line is printed."""
        if self._enabled:
            self._attempt(lambda: self._progress.update(step, postfix))

    def message(self, text: str) -> None:
        """Print a line on stdout, above the progress bar."""
        if self._enabled:
            self._attempt(lambda: self._progress.message(text))

    def figure(self, name: str, figure: Figure, step: int) -> None:
        """Write a figure to TensorBoard and to ``figures/NAME_step_00001234.png``."""
        if not self._enabled:
            return
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        pixels = np.asarray(canvas.buffer_rgba())[..., :3]  # height width 3
        path = self._directory / FIGURES_FOLDER / f"{name}_step_{step:08d}.png"
        self._attempt(lambda: _save_png(pixels, path))
        self._tensorboard(lambda writer: writer.add_image(name, pixels, step, dataformats="HWC"))

    def histograms(self, step: int, values: Mapping[str, ArrayLike], prefix: str) -> None:
        """Write the distribution of each of ``values`` as the TensorBoard histogram ``prefix/name``.

        Args:
            step: optimizer steps done.
            values: arrays or CPU tensors of any shape; what is not finite is left out, and a name without values too.
            prefix: such as "attention", with names such as "entropy_head3".
        """
        if not self._enabled:
            return

        def write(writer: SummaryWriter) -> None:
            for name, value in values.items():
                array = np.asarray(value)
                finite = array[np.isfinite(array)]
                if finite.size:
                    writer.add_histogram(f"{prefix}/{name}", finite, step, bins="auto")

        self._tensorboard(write)

    def trace(self, save: Callable[[str], None], step: int) -> None:
        """Let ``save`` write a profiler's trace that begins with ``step``, and say where it is.

        It goes to ``tensorboard/step_00001234.pt.trace.json.gz``, where TensorBoard's profiler plugin looks for it.
        """
        path = self._directory / TENSORBOARD_FOLDER / f"step_{step:08d}{TRACE_SUFFIX}"

        def write() -> None:
            path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_path(path) as temporary:
                save(str(temporary))

        if self._enabled and self._attempt(write):
            self.message(f"profiler trace from step {step} on: {path}; open it at https://ui.perfetto.dev")

    def hyperparameters(self, config: Mapping[str, Any], metrics: Mapping[str, float]) -> None:
        """Fill TensorBoard's hyper-parameters tab with the run's configuration and its result.

        Call it once, at the end of the run: TensorBoard shows the first values that it finds.

        Args:
            config: nested configuration; its leaves appear as "optim.lr" and so on.
            metrics: the result, such as {"top1": 0.71}; also written as scalars ``final/NAME`` at the last step.
        """
        if not self._enabled:
            return
        final = {f"final/{name}": float(value) for name, value in metrics.items()}

        def write(writer: SummaryWriter) -> None:
            for summary in hparams(flatten(config), final):
                writer._get_file_writer().add_summary(summary)
            for name, value in final.items():
                writer.add_scalar(name, value, self._last_step)

        self._tensorboard(write)

    def close(self) -> None:
        """Write out everything that is pending and release the terminal."""
        if self._writer is not None:
            self._attempt(self._writer.close)
            self._writer = None
        self._attempt(self._progress.close)

    def _tensorboard(self, write: Callable[[SummaryWriter], None]) -> None:
        """Call ``write`` with the TensorBoard writer, opened when it is first needed, and flush it."""

        def write_and_flush() -> None:
            if self._writer is None:
                # The purge step hides the steps that a killed process logged beyond its last checkpoint.
                self._writer = SummaryWriter(str(self._directory / TENSORBOARD_FOLDER), purge_step=self._purge_step)
                self._writer.add_custom_scalars(custom_scalars_layout(self._quantities))
            write(self._writer)
            self._writer.flush()
            self._purge_step = None

        _let_worker_end_silently()
        if not self._attempt(write_and_flush) and self._writer is not None:
            # Its thread has died with the error, for good: the next entry opens a new file.
            with contextlib.suppress(OSError):
                self._writer.close()
            self._writer = None

    def _attempt(self, action: Callable[[], object]) -> bool:
        """Call ``action``; whether it worked. A failure is counted, and the first one is said on stderr."""
        try:
            action()
        except OSError as error:
            self.failures += 1
            if self.failures == 1:
                warn(f"warning: logging failed, training goes on (further failures are only counted): {error}")
            return False
        return True


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


def _save_png(pixels: NDArray[np.uint8], path: Path) -> None:
    """Save through a temporary name, so that a reader never finds half a picture."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as file:
        Image.fromarray(pixels).save(file, format="PNG")
