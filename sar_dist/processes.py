"""Which process is which, whether it still lives, and what it may use: what Linux says (standard library only).

A process id alone proves nothing, because ids are used again; id, start time, boot and PID namespace together do.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")
_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
_STOPPED_STATE = "T"  # by SIGSTOP or its kin; one that a debugger holds is in another
_ENDED_STATES = "ZXx"  # a zombie has ended; only its parent has not asked for the exit status yet


def available_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0))


@dataclass(frozen=True)
class ProcessIdentity:
    """A process that can be told from any other one, also from a later one with the same id.

    Attributes:
        pid: process id.
        started: clock ticks from the boot to the start of the process.
        boot: the kernel's random name of this boot; "" where it is unknown.
        namespace: the PID namespace that ``pid`` counts in, such as a container's; "" where it is unknown.
    """

    pid: int
    started: int
    boot: str
    namespace: str

    def can_be_judged(self) -> bool:
        """Whether this process can tell if that one lives: same boot of one kernel, same PID namespace."""
        return bool(self.boot and self.namespace) and (self.boot, self.namespace) == (_boot(), _namespace())

    def is_alive(self) -> bool:
        """Whether it still runs. Only where ``can_be_judged``."""
        status = _read_status(self.pid)
        if status is not None:
            return status[1] == self.started and not _has_ended(self.pid, status[0])
        try:  # /proc may hide the processes of other users
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            return True
        return _read_status(self.pid) is not None  # it began or ended in between

    def is_stopped(self) -> bool:
        """Whether it stands still at a SIGSTOP, so that nothing in it can run. Only where ``can_be_judged``."""
        status = _read_status(self.pid)
        return status is not None and (status[1], status[0]) == (self.started, _STOPPED_STATE)

    def kill(self) -> None:
        """SIGKILL it, and never another process that has its id by now. Only where ``can_be_judged``."""
        with contextlib.suppress(OSError):
            handle = os.pidfd_open(self.pid)
            try:
                if self.is_alive():
                    signal.pidfd_send_signal(handle, signal.SIGKILL)
            finally:
                os.close(handle)


def identify(pid: int) -> ProcessIdentity | None:
    """The process that has the id now, or None if there is none or it cannot be seen."""
    status = _read_status(pid)
    return None if status is None else ProcessIdentity(pid, status[1], _boot(), _namespace())


def this_process() -> ProcessIdentity:
    """The calling process."""
    return identify(os.getpid()) or ProcessIdentity(os.getpid(), 0, "", "")


def ancestors() -> Iterator[int]:
    """The ids of the parent, its parent, and so on, without the first process of the machine or container."""
    pid = os.getppid()
    while pid > 1:
        yield pid
        status = _read_status(pid)
        if status is None:
            return
        pid = status[2]


def descendants(pid: int) -> Iterator[int]:
    """The ids of the children of a process, of theirs, and so on; none where the kernel does not list them."""
    for task in _listed(_PROC / str(pid) / "task"):
        for child in _read_words(_PROC / str(pid) / "task" / task / "children"):
            yield int(child)
            yield from descendants(int(child))


def processor_seconds(pid: int) -> float:
    """Processor time that a process and its descendants, as far as they live, have used."""
    return sum(map(_own_processor_seconds, (pid, *descendants(pid))))


def command_of(pid: int) -> list[str]:
    """The command line of a process, [] where it cannot be seen."""
    return _read_list(_PROC / str(pid) / "cmdline") or []


def name_of(pid: int) -> str:
    """The kernel's name of a process, at most 15 characters; "" where it cannot be seen."""
    try:
        return (_PROC / str(pid) / "comm").read_text(errors="replace").strip()
    except OSError:
        return ""


def variables_of(pid: int) -> set[str] | None:
    """Names of the environment variables that a process was started with; None where they cannot be seen."""
    entries = _read_list(_PROC / str(pid) / "environ")
    return None if entries is None else {entry.partition("=")[0] for entry in entries}


def _read_list(path: Path) -> list[str] | None:
    try:
        return [part.decode(errors="replace") for part in path.read_bytes().split(b"\0") if part]
    except OSError:
        return None


def _read_words(path: Path) -> list[str]:
    try:
        return path.read_text().split()
    except OSError:
        return []


def _listed(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []


def _own_processor_seconds(pid: int) -> float:
    try:
        text = (_PROC / str(pid) / "stat").read_text(errors="replace")
    except OSError:
        return 0.0
    fields = text.rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_SECOND  # in user mode, and in the kernel


def _read_status(pid: int) -> tuple[str, int, int] | None:
    """State, start time and parent of a process; its name, in parentheses, may hold anything."""
    try:
        text = (_PROC / str(pid) / "stat").read_text(errors="replace")
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()
    return fields[0], int(fields[19]), int(fields[1])


def _has_ended(pid: int, state: str) -> bool:
    """A killed process whose other threads still finish a write is not gone, though its main thread is a zombie."""
    if state not in _ENDED_STATES:
        return False
    try:
        return len(os.listdir(_PROC / str(pid) / "task")) <= 1
    except OSError:
        return True


def _boot() -> str:
    try:
        return (_PROC / "sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _namespace() -> str:
    try:
        return os.readlink(_PROC / "self/ns/pid")
    except OSError:
        return ""
