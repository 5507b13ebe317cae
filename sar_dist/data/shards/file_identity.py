"""Which file this is: device and inode, as far as the file system gives a file the same ones tomorrow and on the next node."""

from __future__ import annotations

import functools
import os
from pathlib import Path

_MOUNTS = Path("/proc/self/mountinfo")


def identity_of_file(state: os.stat_result) -> tuple[int, int]:
    """(device, inode) of a file; 0 for what is no property of the file.

    Network and other file systems without a block device get their device number when they are mounted: it differs
    between the nodes of a cluster. Those in user space (FUSE) number their files as they are looked up.
    """
    if _in_user_space(state.st_dev):
        return 0, 0
    return (state.st_dev if os.major(state.st_dev) else 0), state.st_ino


@functools.cache
def _in_user_space(device: int) -> bool:
    wanted = f"{os.major(device)}:{os.minor(device)}"
    try:
        lines = _MOUNTS.read_text(errors="replace").splitlines()
    except OSError:
        return False
    for line in lines:
        # Fields 3: device; behind the separator: type of the file system. See proc(5).
        before, _, after = line.partition(" - ")
        if before.split()[2:3] == [wanted]:
            return after.startswith("fuse")
    return False
