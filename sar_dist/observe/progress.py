"""Progress of training on stdout: a live bar on a terminal, one line per interval in a log file."""

from __future__ import annotations

import atexit
import sys
import time
from collections.abc import Iterable, Mapping

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from sar_dist.progress import format_duration


def format_value(value: str | float) -> str:
    """A number with four significant digits, or whole (12346, not 1.235e+04); text as it is."""
    if isinstance(value, str):
        return value
    return f"{value:.0f}" if 1e4 <= abs(value) < 1e9 else f"{value:.4g}"


class _BarOverValues(Progress):
    """A bar as wide as the terminal, and the values in a line of their own: beside it they would leave no room for it."""

    values = ""

    def get_renderables(self) -> Iterable[RenderableType]:
        yield from super().get_renderables()
        yield Text(self.values)


class ProgressReporter:
    """Says on stdout how far training is, how it goes, and when it ends.

    Args:
        total_steps: optimizer steps of the whole run.
        description: name at the start of the bar and of each line.
        live: draw a bar that is redrawn in place; None: if stdout is a terminal.

    ``update`` and ``message`` raise OSError when stdout is gone.
    """

    def __init__(self, total_steps: int, description: str, *, live: bool | None = None) -> None:
        self._total_steps = total_steps
        self._description = description
        self._live = sys.stdout.isatty() if live is None else live
        self._bar: _BarOverValues | None = None
        self._first: tuple[int, float] | None = None

    def update(self, step: int, postfix: Mapping[str, str | float]) -> None:
        """Report that ``step`` optimizer steps are done, with the values in ``postfix``."""
        values = "  ".join(f"{name} {format_value(value)}" for name, value in postfix.items())
        ending = self._time_left(step)
        if self._live:
            self._draw(step, ending, values)
            return
        share = 100 * step / max(1, self._total_steps)
        head = f"{self._description}  step {step}/{self._total_steps} ({share:.1f}%)"
        print("  ".join(part for part in (head, ending, values) if part), flush=True)

    def message(self, text: str) -> None:
        """Print one line, above the bar if there is one."""
        if self._bar is None:
            print(text, flush=True)
        else:
            self._bar.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def close(self) -> None:
        """Leave the bar as it stands."""
        if self._bar is not None:
            atexit.unregister(self._bar.stop)
            self._bar.stop()
            self._bar = None

    def _time_left(self, step: int) -> str:
        """Estimate from the steps since the first report, which leaves the slow start of the first steps out."""
        now = time.monotonic()
        if self._first is None:
            self._first = (step, now)
            return ""
        first_step, first_time = self._first
        if step <= first_step:
            return ""
        return f"left {format_duration((now - first_time) / (step - first_step) * (self._total_steps - step))}"

    def _draw(self, step: int, ending: str, values: str) -> None:
        if self._bar is None:
            self._bar = _BarOverValues(
                TextColumn("{task.description}", markup=False),
                BarColumn(bar_width=None),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TextColumn("{task.fields[ending]}", markup=False),
                console=Console(file=sys.stdout),
                refresh_per_second=2,
                expand=True,
            )
            self._bar.add_task(self._description, total=self._total_steps, ending="")
            self._bar.start()
            atexit.register(self._bar.stop)  # a program that ends by an error would leave the terminal without cursor
        self._bar.values = values
        self._bar.update(self._bar.task_ids[0], completed=step, ending=ending, refresh=True)
