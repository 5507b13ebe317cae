"""How far a long loop is: a line now and then, or a bar on a terminal. Training has a bar of its own (``observe``)."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import track as rich_track

from sar_dist.output import warn

T = TypeVar("T")

LINE_EVERY_SECONDS = 20.0


class Progress:
    """Says every 20 s how far a loop of known length is, how fast it goes and how long it will take.

    Args:
        what: what is being done, at the start of each line.
        total: number of items.
        unit: what an item is, in the plural; may be empty.
        say: prints a line.
        done: items that an earlier start of the program did; the speed is that of the others.
        last_line: also say it when all are done, however short it took.
    """

    def __init__(
        self,
        what: str,
        total: int,
        unit: str,
        say: Callable[[str], None],
        *,
        done: int = 0,
        last_line: bool = False,
    ) -> None:
        self._what = what
        self._total = total
        self._unit = unit
        self._say = say
        self._first = done
        self._last_line = last_line
        self._began = self._said = time.monotonic()

    def show(self, done: int, details: Callable[[], str] | None = None) -> bool:
        """``done`` items are done; whether that was said. ``details``, which may be slow, is called only then."""
        now = time.monotonic()
        if now - self._said < LINE_EVERY_SECONDS and not (self._last_line and done >= self._total):
            return False
        self._said = now
        rate = (done - self._first) / max(now - self._began, 1e-9)
        parts = [f"{self._what}: {done} of {self._total} {self._unit}".rstrip()]
        if rate > 0:
            speed = f"{rate:,.0f}" if rate >= 10 else f"{rate:.2g}"
            parts += [f"{speed} a second", f"{format_duration((self._total - done) / rate)} left"]
        if details is not None:
            parts.append(details())
        self._say(", ".join(parts))
        return True


def track(items: Iterable[T], total: int, what: str) -> Iterator[T]:
    """Pass ``items`` on while showing progress on stderr: a bar on a terminal, else a line every 20 s."""
    if sys.stderr.isatty():
        yield from rich_track(items, description=what, total=total, console=Console(stderr=True), transient=True)
        return
    progress = Progress(what, total, "", warn)
    for done, item in enumerate(items, start=1):
        yield item
        progress.show(done)


def format_duration(seconds: float) -> str:
    """``seconds`` as "42s", "3m07s", "5h02m" or "2d03h"."""
    seconds = round(max(0.0, seconds))
    for size, unit, smaller, smaller_unit in ((86400, "d", 3600, "h"), (3600, "h", 60, "m"), (60, "m", 1, "s")):
        if seconds >= size:
            return f"{seconds // size}{unit}{seconds % size // smaller:02d}{smaller_unit}"
    return f"{seconds}s"
