"""Stopping together: a signal to any process, or a time limit, ends training at the same step on all of them.

The protocol (docs/reliability.md): the processes agree on a signal at the end of a step, save one checkpoint, and exit
with status 0. Where $SAR_REQUEUE_FILE names a file, it is written then, and tells a batch script to requeue the job.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from sar_dist import distributed
from sar_dist.errors import UserError
from sar_dist.output import warn
from sar_dist.processes import this_process
from sar_dist.signals import KEYBOARD_SIGNALS, MARKER_VARIABLE, launcher_is_gone, received, write_marker
from sar_dist.standstill import know_members


class StopAgreed(Exception):
    """All processes stop here; the message says why."""


class AgreedStop:
    """Decides after every step and validated batch, on all processes alike, whether to stop.

    The flag is reduced in the background over the CPU network and read one step later, so that a step waits neither
    for the network nor for the GPU. One of these is made on every process, which is when they tell each other who they are.

    Args:
        max_hours: stop after this many hours from now; None for no limit.
        lost: says whether the run directory is not this start's any more.
    """

    def __init__(self, max_hours: float | None, lost: Callable[[], bool]) -> None:
        self._lost = lost
        self._deadline = None if max_hours is None else time.monotonic() + 3600 * max_hours
        self._pending: tuple[Any, torch.Tensor] | None = None
        know_members(distributed.gather_objects(this_process()))

    def check(self) -> None:
        """Go on, or raise StopAgreed. Call on every process after the same steps and batches."""
        reason = self.agree()
        if reason is not None:
            raise StopAgreed(reason)

    def agree(self) -> str | None:
        """Why to stop now, or None to go on."""
        late = self._deadline is not None and time.monotonic() > self._deadline
        flags = torch.tensor([received() or 0, late, launcher_is_gone(), self._lost()], dtype=torch.int32)
        if distributed.world_size() == 1:
            return _describe(flags)
        previous = self._pending
        work = dist.all_reduce(flags, op=dist.ReduceOp.MAX, group=distributed.cpu_group(), async_op=True)
        self._pending = (work, flags)
        return _wait(previous)

    def finish(self) -> None:
        """Wait for the reduction that is still under way. Call on every process after the last step."""
        _wait(self._pending)
        self._pending = None


def request_requeue(step: int, reason: str) -> None:
    """Tell the batch script, through $SAR_REQUEUE_FILE, that there is more to do. Call on the main process.

    Ctrl-C and Ctrl-\\ are somebody at a keyboard, who does not want the job back.
    """
    if reason not in {number.name for number in KEYBOARD_SIGNALS} and (
        problem := write_marker(f"step {step}: {reason}\n")
    ):
        warn(f"warning: {problem}; a batch script will not requeue the job")


def check_marker() -> None:
    """Make sure, before anything starts, that $SAR_REQUEUE_FILE can be written.

    Raises:
        UserError: its folder is not there or cannot be written, or it is no file.
    """
    name = os.environ.get(MARKER_VARIABLE)
    if not name:
        return
    path = Path(name)
    if path.is_dir() or not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        raise UserError(f"{MARKER_VARIABLE}={name} cannot be written; name a file in an existing, writable folder")


def _wait(pending: tuple[Any, torch.Tensor] | None) -> str | None:
    if pending is None:
        return None
    work, flags = pending
    work.wait()
    return _describe(flags)


def _describe(flags: torch.Tensor) -> str | None:
    number, late, orphaned, lost = flags.tolist()
    if number:
        return signal.Signals(number).name
    if orphaned:
        return "the launcher has gone"
    if lost:
        return "the run directory is not this start's any more"
    return "run.max_hours is over" if late else None
