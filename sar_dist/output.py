"""What the program says to its user outside of a progress bar: information on stdout, warnings on stderr.

The only two channels of the package. Progress of training goes through ``observe``, which keeps its lines above the bar.
"""

from __future__ import annotations

import contextlib
import os
import sys


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


def is_main_process() -> bool:
    """Whether the launcher gave this process rank 0; true without a launcher. Works before any process group exists."""
    return os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0")) == "0"


def say(text: str) -> None:
    """Print a line on the main process's stdout. Raises OSError when stdout is gone."""
    if is_main_process():
        print(_encodable(text), flush=True)


def _encodable(text: str) -> str:
    """``text`` as stdout can print it: names of files need not be text in any encoding, and its encoding need not have all."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)


def warn(text: str) -> None:
    """Print a line on stderr, on whichever process or worker has something to warn of.

    A closed stderr leaves no channel, and a warning never ends what it warns of: the line is lost.
    """
    with contextlib.suppress(OSError):
        print(text, file=sys.stderr, flush=True)
