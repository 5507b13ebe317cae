"""The cores of a process, and its fair share of them where processes of a run sit on the same ones (standard library)."""

from __future__ import annotations

import json
import math
import os
import platform
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from sar_dist.processes import this_process

_CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class CoreUse:
    """What a process may use.

    Attributes:
        machine: a name of the running kernel, the same in all of its containers.
        cores: numbers of the cores that it may run on.
        container: what its quota counts for.
        quota: cores' worth of time that the container may use; None without a limit.
    """

    machine: str
    cores: tuple[int, ...]
    container: str
    quota: float | None

    def to_json(self) -> str:
        return json.dumps([self.machine, self.cores, self.container, self.quota])

    @classmethod
    def from_json(cls, text: str) -> CoreUse:
        machine, cores, container, quota = json.loads(text)
        return cls(machine, tuple(cores), container, quota)


def own_use() -> CoreUse:
    """The calling process's."""
    try:
        container = os.readlink("/proc/self/ns/cgroup")
    except OSError:
        container = ""
    machine = this_process().boot or platform.node()
    return CoreUse(machine, tuple(sorted(os.sched_getaffinity(0))), container, read_quota())


def share_of_cores(own: CoreUse, everyone: Sequence[CoreUse]) -> int:
    """Whole cores for each process: one that n processes may use counts for 1/n; at least 1.

    Args:
        everyone: of all processes that train, the own one too.
    """
    here = [use for use in everyone if use.machine == own.machine]
    users = Counter(core for use in here for core in use.cores)
    share = sum(Fraction(1, users[core]) for core in own.cores)
    if own.quota is not None:
        share = min(share, Fraction(own.quota) / sum(use.container == own.container for use in here))
    return max(1, math.floor(share))


def read_quota(root: Path = _CGROUP) -> float | None:
    """Cores' worth of time that the control group allows, as `docker --cpus` and Kubernetes' limits set it, or None."""
    try:
        if (root / "cpu.max").exists():
            limit, period = (root / "cpu.max").read_text().split()
        else:
            limit, period = ((root / "cpu" / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        return None if limit == "max" or int(limit) <= 0 else int(limit) / int(period)
    except (OSError, ValueError):
        return None
