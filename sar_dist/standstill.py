"""Notices that a run whose launcher has gone does not move any more (standard library only, as ``sar_dist.signals``).

Such a run saves together and ends. It cannot where one of its processes stands still: at a SIGSTOP, or in a library that
waits for ever. The others would wait for it until ``guard.stall_minutes``, and nobody is left who could end them.

A run moves while a step, a micro-batch or a validated batch ends here; while a process that is not stopped writes its part of
a checkpoint, however slowly; and, where none is stopped, while one of its processes computes. What the processes of other
machines do cannot be seen: there a run counts as moving unless one of this machine is stopped.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from sar_dist.processes import ProcessIdentity, descendants, identify, processor_seconds, this_process

# With a second until the launcher's end is seen, and one until data workers see their parent's, under half a minute.
PATIENCE_SECONDS = 20.0
_LONGEST_LOOK = 2.0  # seconds between two looks that count: who was stopped itself has watched nobody meanwhile
_COMPUTING = 0.1  # of a core; processes that wait use far less

_moves = 0
_members: tuple[ProcessIdentity, ...] = ()


def _nobody_writes() -> set[int]:
    return set()


_writing: Callable[[], set[int]] = _nobody_writes


def moved() -> None:
    """Say that the calling process goes forward."""
    global _moves
    _moves += 1


def know_members(members: Iterable[ProcessIdentity]) -> None:
    """Say which processes the run has, in rank order."""
    global _members
    _members = tuple(members)


def know_writers(writing: Callable[[], set[int]]) -> None:
    """Let ``writing`` tell, to another thread, the ranks that are at a checkpoint's files."""
    global _writing
    _writing = writing


class Standstill:
    """Watches over a run whose launcher has gone.

    Args:
        patience: seconds without movement after which the run stands still.

    Attributes:
        stopped: ranks of this machine that were stopped at the last look.
    """

    def __init__(self, patience: float = PATIENCE_SECONDS) -> None:
        self.patience = patience
        self.stopped: dict[int, ProcessIdentity] = {}
        self._still = 0.0
        self._looked: float | None = None
        self._seen = _moves
        self._used: dict[int, float] = {}

    def look(self) -> bool:
        """Whether the run stands still. Call it once a second."""
        now = time.monotonic()
        since = 0.0 if self._looked is None else min(now - self._looked, _LONGEST_LOOK)
        self._looked = now
        self.stopped = {
            rank: member for rank, member in enumerate(_members) if member.can_be_judged() and member.is_stopped()
        }
        self._still = 0.0 if self._has_moved(since) else self._still + since
        return self._still >= self.patience

    @property
    def speaks(self) -> bool:
        """Whether this is the process that says so for all of its machine: the first that is not stopped."""
        awake = (member for rank, member in enumerate(_members) if member.can_be_judged() and rank not in self.stopped)
        return next(awake, None) in (None, this_process())

    def describe(self) -> str:
        """What stands still."""
        if not self.stopped:
            return f"nothing has moved for {self.patience:.0f} s"
        names = ", ".join(f"rank {rank} (process {member.pid})" for rank, member in self.stopped.items())
        return f"{names} stood still, stopped, for {self.patience:.0f} s: nothing could be saved together, and it is killed"

    def end_stopped(self) -> None:
        """Kill the processes of the run, and theirs, that are stopped: nothing of this program can run in them."""
        for member in self.stopped.values():
            children = [identify(pid) for pid in descendants(member.pid)]
            for process in (member, *children):
                if process is not None and process.is_stopped():
                    process.kill()

    def _has_moved(self, since: float) -> bool:
        seen, self._seen = self._seen, _moves
        if seen != _moves or self._is_written():
            return True
        if self.stopped:  # the others can only wait for it, and NCCL computes while it waits
            return False
        if not all(member.can_be_judged() for member in _members):
            return True
        before, self._used = self._used, {member.pid: processor_seconds(member.pid) for member in _members}
        return any(used - before.get(pid, used) > _COMPUTING * since for pid, used in self._used.items())

    def _is_written(self) -> bool:
        """Whether somebody who can is at a checkpoint; a disk that does not answer may yet."""
        try:
            return bool(_writing() - self.stopped.keys())
        except OSError:
            return True
