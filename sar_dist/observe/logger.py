"""What a run leaves behind for people to look at: metrics.jsonl, figures, ``log.to``, and the progress on stdout."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from sar_dist.errors import text_of
from sar_dist.files import atomic_path, atomic_write
from sar_dist.observe.destination import Destination, EntryWaits, LoggedRun
from sar_dist.observe.destinations import open_destinations
from sar_dist.observe.drawable import make_drawable
from sar_dist.observe.progress import ProgressReporter
from sar_dist.observe.quantities import QUANTITIES
from sar_dist.observe.records import RESERVED, encode_line, metrics_line, read_metrics, truncate_records
from sar_dist.observe.tensorboard_destination import TENSORBOARD_FOLDER
from sar_dist.observe.trace import TRACE_SUFFIX
from sar_dist.observe.waiting_lines import WaitingLines
from sar_dist.output import warn
from sar_dist.quantities import Quantity

METRICS_FILE = "metrics.jsonl"
FIGURES_FOLDER = "figures"
SAMPLES_FOLDER = "samples"
_VALIDATION_PREFIXES = ("val", "val_ema")
_SAMPLE_SIDE = 160  # pixels: the images lie side by side
_OWN_FILES = "the run directory"
_STDOUT = "stdout"
_DRAWING = "drawing figures"


class RunLogger:
    """Writes a run's metrics and figures into its directory and to ``log.to``, and its progress to stdout.

    Nothing here stops training. Lines of metrics.jsonl and of ``figures/*.jsonl``, and TensorBoard's scalars, wait in memory for a
    disk that does not take them. Of anything else, when the disk, a destination or stdout fails, the entry is lost, ``failures`` goes up by one, the
    first failure of each is said on stderr, the next entry is tried again, and ``close`` says how many were lost.

    Args:
        directory: the run directory.
        enabled: False makes every method do nothing; every process but the one with rank 0 passes False.
        total_steps: optimizer steps of the whole run, the end of the progress bar.
        description: name of the run.
        quantities: what TensorBoard's first page shows.
        to: names of the destinations besides metrics.jsonl, such as "tensorboard"; see ``log.to``.
        project: what destinations gather runs under.
    """

    def __init__(
        self,
        directory: Path,
        *,
        enabled: bool,
        total_steps: int,
        description: str,
        quantities: Iterable[Quantity] = QUANTITIES,
        to: Iterable[str] = ("tensorboard",),
        project: str = "sar_dist",
    ) -> None:
        self._directory = Path(directory)
        self._enabled = enabled
        self._failures: Counter[str] = Counter()
        self._lines = WaitingLines()
        self._has_waited: set[str] = set()
        self._used = False
        self._seen: set[int] = set()
        self._last_step = 0
        self._destinations = open_destinations(to, LoggedRun(self._directory, description, project, tuple(quantities)))
        self._progress = ProgressReporter(total_steps, description)

    @property
    def failures(self) -> int:
        """Entries that were lost."""
        return (
            self._failures.total() + self._lines.dropped + sum(destination.lost for destination in self._destinations)
        )

    def start(self, config: Mapping[str, Any], step: int, *, settled: bool = True) -> None:
        """Start the destinations, and forget every entry of later steps than ``step``, which training is about to repeat.

        Call it before the first entry: with the step of the checkpoint that training resumes from, or with -1 when it
        starts from the beginning. The curves of a run that was killed and resumed are then those of an unbroken one.

        Args:
            config: the run's configuration, nested.
            step: optimizer steps done.
            settled: whether what is due after ``step`` has been done. Where it has not, what was written of its validation
                and pictures is forgotten too.

        Raises:
            UserError: a destination does not start.
            RuntimeError: an entry has been written already.
        """
        if self._used:
            raise RuntimeError("start() comes before the first entry")
        if not self._enabled:
            return
        done = step if settled else step - 1
        for destination in self._destinations:
            line = destination.start(config, done)
            if line is not None:
                self.message(line)
        again = () if settled else _VALIDATION_PREFIXES
        self._attempt(partial(truncate_records, self._directory / METRICS_FILE, step, again))
        for file in (self._directory / FIGURES_FOLDER).glob("*.jsonl"):
            self._attempt(partial(truncate_records, file, done))
        if not settled:
            self._repeat(step)

    def _repeat(self, step: int) -> None:
        """Give the destinations, which forgot all of a step that was not settled, what metrics.jsonl keeps of it."""
        for record in read_metrics(self._directory / METRICS_FILE):
            if record["step"] == step:
                values = {f"{record['prefix']}/{name}": float(v) for name, v in record.items() if name not in RESERVED}
                self._to_each(partial(_send_metrics, step, float(record["time"]), values))

    def metrics(self, step: int, values: Mapping[str, float], prefix: str = "train") -> None:
        """Write ``values``, if any, as ``prefix/name`` to each destination and as one line of metrics.jsonl, at once.

        Raises:
            ValueError: a metric is called "step", "prefix" or "time".
        """
        if not self._enabled or not values:
            return
        self._last_step = max(self._last_step, step)
        now = time.time()
        tagged = {f"{prefix}/{name}": float(value) for name, value in values.items()}
        self._append(self._directory / METRICS_FILE, metrics_line(step, prefix, now, values))
        self._to_each(partial(_send_metrics, step, now, tagged))

    def recorded(self, step: int, prefix: str) -> dict[str, float] | None:
        """The metrics that metrics.jsonl holds of ``step`` and ``prefix``, as numbers; None if it has none."""
        found = None
        for record in read_metrics(self._directory / METRICS_FILE):
            if record["step"] == step and record["prefix"] == prefix:
                found = {name: float(value) for name, value in record.items() if name not in RESERVED}
        return found

    def progress(self, step: int, postfix: Mapping[str, str | float]) -> None:
        """Report progress on stdout: the bar moves on a terminal, otherwise a line is printed."""
        if self._enabled:
            self._attempt(lambda: self._progress.update(step, postfix), _STDOUT)

    def message(self, text: str) -> None:
        """Print a line on stdout, above the progress bar."""
        if self._enabled:
            self._attempt(lambda: self._progress.message(text), _STDOUT)

    def figure(self, name: str, draw: Figure | Callable[[], Figure], step: int) -> None:
        """Write a figure to each destination and to ``figures/NAME_step_00001234.png``.

        Args:
            name: of the picture.
            draw: the figure, or what draws it: whatever fails there costs the picture and not the training.
            step: optimizer steps done.
        """
        if not self._enabled:
            return
        drawn: list[NDArray[np.uint8]] = []
        if not self._attempt(lambda: drawn.append(_drawn(draw)), _DRAWING, (Exception,)):
            return
        pixels = drawn[0]
        path = self._directory / FIGURES_FOLDER / f"{name}_step_{step:08d}.png"
        self._attempt(lambda: _save_png(pixels, path))
        self._to_each(lambda destination: destination.figure(step, name, pixels))

    def details(
        self, name: str, step: int, values: Mapping[str, Any], samples: Mapping[int, NDArray[np.uint8]]
    ) -> None:
        """Keep what the report shows of a step: a line of ``figures/NAME.jsonl``, and the images that it speaks of.

        Args:
            name: such as "attention".
            step: optimizer steps done.
            values: what JSON can hold.
            samples: number of a validation sample -> its image (S, S, 3), kept as ``figures/samples/00001234.jpg`` once a
                start, because the validation set may be another one after a resume.
        """
        if not self._enabled:
            return
        folder = self._directory / FIGURES_FOLDER
        for number in self.unseen(samples):
            self._attempt(partial(_save_sample, samples[number], sample_file(folder, number)))
        self._seen |= samples.keys()
        self._append(folder / f"{name}.jsonl", encode_line({"step": step, **values}))

    def forget_samples(self, but: Collection[int]) -> None:
        """Remove the images of all validation samples ``but`` these, so that their number does not grow with training."""
        if not self._enabled:
            return
        self._seen &= set(but)
        for file in (self._directory / FIGURES_FOLDER / SAMPLES_FOLDER).glob("*.jpg"):
            if file.stem.isdigit() and int(file.stem) not in but:
                self._attempt(partial(file.unlink, missing_ok=True))

    def unseen(self, samples: Iterable[int]) -> list[int]:
        """Those of the validation samples whose image this start has not kept yet."""
        return [number for number in dict.fromkeys(samples) if number not in self._seen]

    def histograms(self, step: int, values: Mapping[str, ArrayLike], prefix: str) -> None:
        """Write the distribution of each of ``values`` as the histogram ``prefix/name``.

        Args:
            step: optimizer steps done.
            values: arrays or CPU tensors of any shape; what is not finite is left out, and a name without values too.
            prefix: such as "attention", with names such as "entropy_head3".
        """
        if not self._enabled:
            return

        arrays = {f"{prefix}/{name}": np.asarray(value) for name, value in values.items()}
        finite = {tag: array[np.isfinite(array)] for tag, array in arrays.items()}
        shown = {tag: array for tag, array in finite.items() if array.size}
        self._to_each(lambda destination: destination.histograms(step, shown))

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
        """Give each destination the run's configuration and its result; call it once, at the end of the run.

        Args:
            config: nested configuration; TensorBoard shows its leaves as "optim.lr" and so on.
            metrics: the result, such as {"top1": 0.71}; it appears as ``final/NAME`` at the last step.
        """
        if self._enabled:
            final = {f"final/{name}": float(value) for name, value in metrics.items()}
            self._to_each(lambda destination: destination.result(self._last_step, config, final))

    def flush(self) -> None:
        """Write what waits for the disk, if that takes it. Call it before what makes the entries so far final: a checkpoint."""
        self._lines.flush()
        if self._enabled:
            self._to_each(lambda destination: destination.flush())

    def close(self) -> None:
        """Write out everything that is pending, release the terminal, and say how many entries were lost, if any."""
        if self._enabled:
            self._to_each(lambda destination: destination.close())
        self._attempt(self._progress.close, _STDOUT)
        self._lines.flush()
        self._failures[_OWN_FILES] += len(self._lines)
        given_up = {destination.name: destination.lost for destination in self._destinations}
        counts = self._failures + Counter({_OWN_FILES: self._lines.dropped}) + Counter(given_up)
        if counts:
            lost = ", ".join(f"{number} of {name}" for name, number in counts.items())
            warn(f"warning: log entries that were lost: {lost}")

    def _append(self, path: Path, line: bytes) -> None:
        problem = self._lines.append(path, line)
        if problem is not None:
            self._say_once(
                _OWN_FILES, f"{path} cannot be written, its lines wait in memory and training goes on: {problem}"
            )

    def _say_once(self, where: str, text: str) -> None:
        """Say once for each of the places that its entries wait."""
        if where not in self._has_waited:
            self._has_waited.add(where)
            warn(f"warning: {text}")

    def _to_each(self, action: Callable[[Destination], object]) -> None:
        self._used = True
        for destination in self._destinations:
            self._attempt(partial(action, destination), destination.name, destination.errors)

    def _attempt(
        self, action: Callable[[], object], where: str = _OWN_FILES, errors: tuple[type[Exception], ...] = (OSError,)
    ) -> bool:
        """Call ``action``; whether it worked. A failure is counted, and the first one of ``where`` is said on stderr."""
        try:
            action()
        except EntryWaits as error:
            self._say_once(
                where, f"{where} takes no entries, they wait in memory and training goes on: {text_of(error)}"
            )
        except errors as error:
            self._failures[where] += 1
            if self._failures[where] == 1:
                warn(
                    f"warning: logging failed {'on' if where == _STDOUT else 'in'} {where}, training goes on (further failures are only counted): {_in_a_line(error)}"
                )
            return False
        return True


def _in_a_line(error: Exception) -> str:
    """What an error says; one of the program, rather than of a disk, with its kind."""
    kind = type(error).__name__
    text = text_of(error)
    return text if isinstance(error, OSError) or text.startswith(kind) else f"{kind}: {text}"


def _send_metrics(step: int, time: float, values: Mapping[str, float], destination: Destination) -> None:
    destination.metrics(step, time, values)


def _drawn(draw: Figure | Callable[[], Figure]) -> NDArray[np.uint8]:
    """The pixels of a figure, (height, width, 3)."""
    figure = draw if isinstance(draw, Figure) else draw()
    canvas = FigureCanvasAgg(figure)
    make_drawable(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3]


def sample_file(figures: Path, number: int) -> Path:
    """Where the image of a validation sample is kept."""
    return figures / SAMPLES_FOLDER / f"{number:08d}.jpg"


def _save_sample(pixels: NDArray[np.uint8], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(pixels)
    image.thumbnail((_SAMPLE_SIDE, _SAMPLE_SIDE))
    with atomic_write(path) as file:
        image.save(file, format="JPEG", quality=85)


def _save_png(pixels: NDArray[np.uint8], path: Path) -> None:
    """Save through a temporary name, so that a reader never finds half a picture."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as file:
        Image.fromarray(pixels).save(file, format="PNG")
