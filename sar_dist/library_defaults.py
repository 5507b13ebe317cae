"""What libraries read from the environment, set where the user has set nothing (standard library only).

Call it before they look: Triton, Inductor and DeepSpeed when they are imported or first used, NCCL's and libfabric's
transports when the process group is made.
"""

from __future__ import annotations

import os
import platform
import socket
import tempfile
from pathlib import Path

from sar_dist.errors import UserError

CACHE_VARIABLE = "SAR_CACHE_DIR"  # also read by slurm/common.sh
_GLOO_INTERFACES = "GLOO_SOCKET_IFNAME"
# Triton's default is the home folder, which cluster nodes share. Both rename files that other processes are reading
# and lock by files, which a network file system does not promise: one rank dies of it and the others hang.
_CACHES = {"TRITON_CACHE_DIR": "triton", "TORCHINDUCTOR_CACHE_DIR": "inductor"}
# The data workers are forked, some of them beside InfiniBand's or EFA's registered memory; without these the pages
# that a fork shares are corrupted, or libfabric ends the process.
_FORK_SAFE = ("RDMAV_FORK_SAFE", "IBV_FORK_SAFE", "FI_EFA_FORK_SAFE")


def set_library_defaults(*, cuda: bool = False) -> None:
    """Set the folders of compiled kernels and gloo's interface; with ``cuda`` also what makes a fork safe beside RDMA."""
    folder = compiled_kernels_folder()
    for variable, name in _CACHES.items():
        if folder is not None:
            os.environ.setdefault(variable, str(folder / name))
    if _GLOO_INTERFACES not in os.environ:
        interfaces = gloo_interfaces(os.environ.get("NCCL_SOCKET_IFNAME", ""))
        if interfaces:
            os.environ[_GLOO_INTERFACES] = interfaces
    for variable in _FORK_SAFE if cuda else ():
        os.environ.setdefault(variable, "1")


def check_interfaces() -> None:
    """Look whether gloo's interfaces are there; NCCL takes beginnings of names, and needs not have any of those.

    Raises:
        UserError: one is not.
    """
    there = sorted(name for _, name in socket.if_nameindex())
    for name in filter(None, os.environ.get(_GLOO_INTERFACES, "").split(",")):
        if name not in there:
            raise UserError(
                f"{_GLOO_INTERFACES}={os.environ[_GLOO_INTERFACES]}: {platform.node()} has no network interface {name}, but "
                f"{', '.join(there)}; correct or unset the variable"
            )


def compiled_kernels_folder() -> Path | None:
    """$SAR_CACHE_DIR, else a folder of this user's on this node's own disk; None if another user made that one."""
    given = os.environ.get(CACHE_VARIABLE)
    if given:
        return Path(given)
    folder = Path(tempfile.gettempdir()) / f"sar_dist-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        # What lies in it is executed, and anybody may make a folder in /tmp.
        return folder if folder.is_dir() and folder.lstat().st_uid == os.getuid() else None
    except OSError:
        return None


def gloo_interfaces(nccl: str) -> str:
    """NCCL's list of interfaces in gloo's notation; "" where it is none of exact names that this node has.

    NCCL also takes beginnings of names, and "^" for all others; gloo would look for interfaces that are called so.
    """
    names = nccl.removeprefix("=").split(",")
    return ",".join(names) if set(names) <= {name for _, name in socket.if_nameindex()} else ""
