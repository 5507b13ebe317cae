"""Lines that a disk does not take for a while: they wait in memory, and are written, in their order, once it does."""

from __future__ import annotations

from collections import defaultdict, deque
from pathlib import Path

from sar_dist.observe.records import append_line

_MOST_BYTES = 64 << 20


class WaitingLines:
    """Appends lines to files. A failing disk costs none unless it outlives the process, or 64 MiB of them are waiting.

    Attributes:
        dropped: lines that were given up, the oldest first.
    """

    def __init__(self, most_bytes: int = _MOST_BYTES) -> None:
        self.dropped = 0
        self._most_bytes = most_bytes
        self._bytes = 0
        self._waiting: defaultdict[Path, deque[bytes]] = defaultdict(deque)

    def __len__(self) -> int:
        """How many lines are waiting."""
        return sum(map(len, self._waiting.values()))

    def append(self, path: Path, line: bytes) -> OSError | None:
        """Append a line, which ends with a line break, after those that wait for the same file; why it has to wait, or None."""
        self._waiting[path].append(line)
        self._bytes += len(line)
        problem = self._write(path)
        while self._bytes > self._most_bytes:
            longest = max(self._waiting.values(), key=len)
            self._bytes -= len(longest.popleft())
            self.dropped += 1
        return problem

    def flush(self) -> None:
        """Try to write all that waits."""
        for path in list(self._waiting):
            self._write(path)

    def _write(self, path: Path) -> OSError | None:
        waiting = self._waiting[path]
        try:
            while waiting:
                append_line(path, waiting[0])
                self._bytes -= len(waiting.popleft())
        except OSError as error:
            return error
        return None
