"""The progress of long work on many items: a bar on a terminal, lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import track as rich_track

T = TypeVar("T")

_LINE_EVERY_SECONDS = 10.0


def track(items: Iterable[T], total: int, what: str) -> Iterator[T]:
    """Pass ``items`` on while showing progress on stderr: a bar on a terminal, else a line every 10 s."""
    if sys.stderr.isatty():
        yield from rich_track(items, description=what, total=total, console=Console(stderr=True), transient=True)
        return
    last = time.monotonic()
    for done, item in enumerate(items, start=1):
        yield item
        if time.monotonic() - last > _LINE_EVERY_SECONDS:
            last = time.monotonic()
            print(f"{what}: {done} of {total}", file=sys.stderr, flush=True)
