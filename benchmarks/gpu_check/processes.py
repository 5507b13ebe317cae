"""Programs with a time limit, of which nothing is left when it is over: one that hangs is ended with all its children."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_SHOWN_CHARACTERS = 1500
_STACK_SECONDS = 3.0  # in which a program that hangs may write where it hangs


@dataclass(frozen=True)
class Finished:
    """A program that has ended.

    Attributes:
        status: exit status; negative where a signal ended it.
        seconds: how long it ran.
        timed_out: it was ended at its time limit.
        log: the file that holds what it wrote.
    """

    status: int
    seconds: float
    timed_out: bool
    log: Path

    @property
    def succeeded(self) -> bool:
        return self.status == 0 and not self.timed_out

    def problem(self) -> str:
        """Why it failed, with its last line, in one line."""
        what = f"ended after {self.seconds:.0f} s, its time limit" if self.timed_out else f"exit status {self.status}"
        lines = [line for line in self.text()[-_SHOWN_CHARACTERS:].splitlines() if line.strip()]
        return f"{what}; {lines[-1].strip() if lines else 'it wrote nothing'}; all of it in {self.log}"

    def text(self) -> str:
        """What it wrote."""
        return self.log.read_text(errors="replace")


class Started:
    """A program that runs, in a process group of its own.

    Args:
        command: program and arguments.
        log: file for what it writes on stdout and stderr.
        folder: working directory.
        environment: variables besides those of this process.
    """

    def __init__(self, command: Sequence[str], log: Path, folder: Path, environment: Mapping[str, str]) -> None:
        self._log = log
        self._begin = time.monotonic()
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("w") as output:  # a file, not a pipe: a grandchild that lives on could keep a pipe open for ever
            self._process = subprocess.Popen(
                command,
                cwd=folder,
                env={**os.environ, "PYTHONFAULTHANDLER": "1", **environment},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def is_running(self) -> bool:
        return self._process.poll() is None

    def wait(self, seconds: float) -> Finished:
        """Until it ends, or ``seconds`` from now, when it is made to write its stacks and is ended."""
        timed_out = False
        try:
            self._process.wait(max(0.0, seconds))
        except subprocess.TimeoutExpired:
            timed_out = True
            self._process.send_signal(signal.SIGABRT)  # Python's fault handler writes the stacks of all threads
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_STACK_SECONDS)
        self.kill()
        return Finished(self._process.returncode, time.monotonic() - self._begin, timed_out, self._log)

    def kill(self) -> None:
        """End it and its children with SIGKILL, as a lost node would."""
        with contextlib.suppress(ProcessLookupError):  # all of its group have ended
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
