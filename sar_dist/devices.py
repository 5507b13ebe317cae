"""Which device a process computes on: its own GPU, or the CPU where that is meant, and never by mistake.

PyTorch finds no GPU, without a word, where the driver is too old for it, or a container was started without its GPUs.
Training on the CPU instead would take months.
"""

from __future__ import annotations

import os
import re
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch

from sar_dist.errors import UserError
from sar_dist.output import say
from sar_dist.program import run_tool

_NVIDIA_DEVICE = Path("/dev/nvidiactl")
_NVIDIA_DRIVER = Path("/proc/driver/nvidia/version")
# The oldest Linux driver of each CUDA major version, from the table of the CUDA toolkit's release notes.
_OLDEST_DRIVER = {"11": 450, "12": 525, "13": 580}

# From cuBLAS' documentation, "Results reproducibility".
_CUBLAS_WORKSPACES = (":4096:8", ":16:8")


def find_device(local_rank: int) -> torch.device:
    """This process's GPU, or the CPU where there is none or DS_ACCELERATOR=cpu asks for it; nothing is started on it.

    Raises:
        UserError: more processes on this node than GPUs; or it has a GPU that PyTorch cannot use.
    """
    if not uses_cuda():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
        return torch.device("cpu")
    visible = torch.cuda.device_count()
    if visible == 1 and local_rank > 0 and "SLURM_GPUS_PER_TASK" in os.environ:
        # Slurm shows each task a GPU of its own, which is number 0 for every one of them; DeepSpeed reads the variable.
        os.environ["LOCAL_RANK"] = "0"
        local_rank = 0
    if local_rank >= visible:
        raise UserError(
            f"local rank {local_rank} has no GPU: this node has {visible}; start fewer processes, or set DS_ACCELERATOR=cpu"
        )
    return torch.device("cuda", local_rank)


def select_device(local_rank: int) -> torch.device:
    """This process's GPU, which it uses from now on, or the CPU.

    Raises:
        UserError: as ``find_device``.
    """
    device = find_device(local_rank)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    return device


def uses_cuda() -> bool:
    """Whether this process computes on a GPU.

    Raises:
        UserError: the node has a GPU that PyTorch cannot use, and nothing says that the CPU is meant; or DS_ACCELERATOR
            is neither cpu nor cuda, or cuda without a GPU.
    """
    wanted = os.environ.get("DS_ACCELERATOR")
    if wanted not in (None, "cpu", "cuda"):  # DeepSpeed would end with a traceback
        raise UserError(f"DS_ACCELERATOR={wanted!r} is neither cpu nor cuda; unset it, or set it to one of them")
    if wanted == "cpu":
        return False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch warns of an old driver; the error below says what to do
        if torch.cuda.is_available():
            return True
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1")
    if (_NVIDIA_DEVICE.exists() or _NVIDIA_DRIVER.exists()) and not hidden:
        raise UserError(f"{_why_unusable()}; to train on the CPU, set DS_ACCELERATOR=cpu")
    if wanted == "cuda":
        raise UserError("DS_ACCELERATOR=cuda, but PyTorch finds no GPU; unset it, or set DS_ACCELERATOR=cpu")
    return False


def use_deterministic_kernels() -> None:
    """Use only kernels that give the same bits every time, from now on. Before anything is computed on a GPU.

    PyTorch raises an error where an operation has no such kernel.

    Raises:
        UserError: CUBLAS_WORKSPACE_CONFIG is set to something with which cuBLAS is not deterministic.
    """
    given = os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", _CUBLAS_WORKSPACES[0])
    if given not in _CUBLAS_WORKSPACES:
        raise UserError(
            f"CUBLAS_WORKSPACE_CONFIG={given} does not go with run.deterministic=true; unset it, or use "
            f"{' or '.join(_CUBLAS_WORKSPACES)}"
        )
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # costs time, and is for finding bugs
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False


def shared_gpu(places: Sequence[tuple[str, str]]) -> tuple[int, int] | None:
    """The first two ranks that have the same GPU.

    Args:
        places: of every rank its node's name and its GPU's universally unique identifier.
    """
    first: dict[tuple[str, str], int] = {}
    for rank, place in enumerate(places):
        if place in first:
            return first[place], rank
        first[place] = rank
    return None


def process_count(wanted: int) -> int:
    """How many of the wanted processes this machine has a GPU for; all of them on the CPU."""
    return min(wanted, torch.cuda.device_count()) if uses_cuda() else wanted


def _why_unusable() -> str:
    found = re.search(r"Module\s+(?:for \S+\s+)?(\d+)(\S*)", _read(_NVIDIA_DRIVER))
    driver = f"driver {found[1]}{found[2]}" if found else "driver of unknown version"
    start = f"this node has an NVIDIA GPU ({driver}), but"
    if torch.version.cuda is None:
        return f"{start} the installed PyTorch {torch.__version__} is a build without CUDA; install one with CUDA"
    oldest = _OLDEST_DRIVER.get(torch.version.cuda.partition(".")[0])
    built = f"PyTorch {torch.__version__} is built for CUDA {torch.version.cuda}"
    if oldest is not None and found and int(found[1]) < oldest:
        return (
            f"{start} {built}, which needs driver {oldest} or newer; update it, or install a PyTorch for an older CUDA"
        )
    if not _NVIDIA_DEVICE.exists():
        return f"{start} no access to it; start the container or the job with its GPUs (docker: --gpus all)"
    return f"{start} {built} and finds no usable GPU; see what nvidia-smi says, and CUDA_VISIBLE_DEVICES"


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


if __name__ == "__main__":  # python -m sar_dist.devices WANTED: for the Makefile
    run_tool(lambda: say(str(process_count(int(sys.argv[1])))))
