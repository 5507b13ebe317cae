"""Whether the `srun` of this process still lives (standard library only, as ``sar_dist.signals``).

Slurm lets a step run on whose `srun` was killed, and slurmstepd, the parent of its processes, stays. But on every node it
holds a connection to `srun`, which ends with that one: the kernel's table of connections is free to look at. There may be
others between the same machines, so where one has ended, `srun`'s port is asked whether anybody listens: seldom, as `srun`
says in its log that it was asked nothing.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import struct
from collections.abc import Iterable
from pathlib import Path

from sar_dist.processes import ancestors, command_of

_TABLE = Path("/proc/net/tcp")
_GROUPS = Path("/proc/self/cgroup")
_ESTABLISHED = "01"
_ANSWER_SECONDS = 2.0


class StepLauncher:
    """The `srun` that started this process.

    Args:
        address: IPv4 address of the machine on which it runs.
        port: on which it listens there.
    """

    def __init__(self, address: str, port: int) -> None:
        self._address = address
        self._port = port
        self._connections = self._connected()

    def is_alive(self) -> bool:
        """Whether it still runs, as far as can be told: a machine that does not answer is given the benefit of the doubt."""
        connected = self._connected()
        if connected >= self._connections:
            return True
        self._connections &= connected
        try:
            socket.create_connection((self._address, self._port), timeout=_ANSWER_SECONDS).close()
        except ConnectionRefusedError:
            return False
        except OSError:
            pass
        return True

    def _connected(self) -> set[str]:
        """Both ends of the connections between this machine and that of `srun`, as the kernel writes them."""
        # The kernel writes an address as one number of four bytes, in this machine's order.
        there = f"{struct.unpack('=I', socket.inet_aton(self._address))[0]:08X}:"
        found = set()
        with contextlib.suppress(OSError):
            for line in _TABLE.read_text().splitlines()[1:]:
                here, other, state = line.split()[1:4]
                if state == _ESTABLISHED and other.startswith(there):
                    found.add(f"{here} {other}")
        return found


def find_step_launcher() -> StepLauncher | None:
    """The `srun` that started this process, or None where none did, or where that cannot be told.

    A job script that was submitted within a step has the variables of that step, though it is of none.
    """
    variables = ("SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_LAUNCH_NODE_IPADDR", "SLURM_STEP_LAUNCHER_PORT")
    job, step, address, port = (os.environ.get(name, "") for name in variables)
    with contextlib.suppress(OSError, ValueError):
        if (job, step) == _own_step(_GROUPS.read_text(), (" ".join(command_of(pid)) for pid in ancestors())):
            return StepLauncher(address, int(port))
    return None


def _own_step(groups: str, commands: Iterable[str]) -> tuple[str, str] | None:
    """Job and step of a process by its control groups, or by slurmstepd's title, of which the end may be missing."""
    found = re.search(r"/job_(\d+)/step_(\w+)", groups)
    for command in commands:
        found = found or re.match(r"slurmstepd: \[(\d+)\.(\w+)\]", command)
    return None if found is None else (found[1], found[2])
