"""What the program says to its user outside of a progress bar: information on stdout, warnings on stderr.

The only two channels of the package. Progress of training goes through ``observe``, which keeps its lines above the bar.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Iterator
from typing import Any


class WatchedStream:
    """A stream that remembers the first error of writing to it; for everything else it is the stream itself."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream
        self.problem: OSError | None = None

    def write(self, text: str) -> int:
        with self._noting():
            return int(self.stream.write(text))

    def flush(self) -> None:
        with self._noting():
            self.stream.flush()

    @contextlib.contextmanager
    def _noting(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.problem = self.problem or error
            raise

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


def watch_stdout() -> WatchedStream:
    """Put a watched stream in the place of stdout; what its encoding does not have is escaped, as on stderr.

    Names of files need not be text in any encoding, and a program's words are no reason to end it.
    """
    stream = sys.stdout.stream if isinstance(sys.stdout, WatchedStream) else sys.stdout
    if isinstance(stream, io.TextIOWrapper):
        with contextlib.suppress(OSError):  # a descriptor that has become a pipe under the stream tells no position
            stream.reconfigure(errors="backslashreplace")
    watched = WatchedStream(stream)
    sys.stdout = watched  # type: ignore[assignment]
    return watched


def give_up_stdout() -> None:
    """Let stdout lead nowhere from here on, so that the interpreter's last flush of it does not fail."""
    with contextlib.suppress(OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)


def open_missing_streams() -> None:
    """Give a program that was started without stdin, stdout or stderr (``>&-``) ones that lead nowhere.

    Without them the next files that are opened have their numbers, and get what libraries print.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)  # the lowest number that is free: this one
            os.set_inheritable(opened, True)
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, "r" if number == 0 else "w", closefd=False))


_alone = False


def work_alone(alone: bool) -> None:
    """Say whether this program is one without ranks: a launcher's variables around it are then none of its business."""
    global _alone
    _alone = alone


def is_main_process() -> bool:
    """Whether the launcher gave this process rank 0; true without a launcher. Works before any process group exists."""
    # Outside of a job step Slurm's names describe the job, or what is left of another one's environment.
    task = os.environ.get("SLURM_PROCID", "0") if "SLURM_STEP_ID" in os.environ else "0"
    return _alone or os.environ.get("RANK", task) == "0"


def say(text: str) -> None:
    """Print a line on the main process's stdout. Raises OSError when stdout is gone."""
    if is_main_process():
        print(text, flush=True)


def warn(text: str) -> None:
    """Print a line on stderr, on whichever process or worker has something to warn of.

    A closed stderr leaves no channel, and a warning never ends what it warns of: the line is lost.
    """
    with contextlib.suppress(OSError):
        print(text, file=sys.stderr, flush=True)
