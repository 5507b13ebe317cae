"""Processes: rank, world size, set-up under every launcher, and reductions that also work in one process.

Nothing here needs a GPU, and every function is correct before (or without) a process group.
"""

from __future__ import annotations

import importlib
import os
import platform
import warnings
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from sar_dist.cores import CoreUse, own_use, share_of_cores
from sar_dist.devices import shared_gpu
from sar_dist.errors import CannotMeet, UserError, text_of
from sar_dist.launch_environment import read_environment
from sar_dist.library_defaults import set_library_defaults
from sar_dist.meeting import MEETING_TIME, join, meet, part
from sar_dist.program import leave_at_once, leaves_at_once

__all__ = [
    "all_gather",
    "all_reduce_sum",
    "barrier",
    "broadcast_object",
    "cpu_group",
    "exchange",
    "gather_objects",
    "initialize",
    "is_main",
    "main_first",
    "meet",
    "own_cores",
    "rank",
    "read_environment",
    "shutdown",
    "together",
    "wait_on_cpu",
    "world_size",
]

T = TypeVar("T")

_cpu_group: Any = None  # a ProcessGroup, which PyTorch's types call an int too


def together(action: Callable[[], T]) -> T:
    """Run ``action`` on every process, which needs no process group; where it fails on one, all fail with its message.

    Raises:
        UserError: ``action`` raised it on some process.
    """
    meeting = join(MEETING_TIME)
    return action() if meeting is None else meeting.together(action)


def exchange(text: str) -> list[str]:
    """What every process gives, in rank order, on every process; needs no process group.

    Raises:
        UserError: another process ended with an error, or rank 0 was not found in time.
    """
    meeting = join(MEETING_TIME)
    return [text] if meeting is None else meeting.exchange(text)


def initialize(device: torch.device, timeout: timedelta = MEETING_TIME, stall_minutes: float | None = None) -> None:
    """Create the process group, through DeepSpeed so that its communication layer uses the same one.

    Args:
        device: what this process computes on; on CUDA the group is NCCL's, otherwise gloo's.
        timeout: how long the processes wait for each other here.
        stall_minutes: when the watchdog ends a process that has not moved; None: there is none.

    Raises:
        CannotMeet: the processes did not find each other in time, or the port is taken.
    """
    if dist.is_initialized():
        return
    set_library_defaults(cuda=device.type == "cuda")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    meeting = join(timeout)
    if meeting is not None:
        meeting.wait_for_all(timeout.total_seconds())
    import deepspeed  # slow to import: only once everything cheap has been checked

    _silence_renamed_collectives()
    backend = "nccl" if device.type == "cuda" else "gloo"
    if backend == "nccl":
        leave_at_once()
    else:
        _do_without_compiled_reduction()
    patience = MEETING_TIME if stall_minutes is None else collective_timeout(backend, stall_minutes)
    place = "itself" if meeting is None else meeting.place
    try:
        if meeting is None:
            # It has nobody to meet: no port that could be taken, and nothing in the environment of its children.
            dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1, timeout=patience)
            os.environ.setdefault("LOCAL_RANK", "0")  # DeepSpeed's engine asks for it
        deepspeed.init_distributed(dist_backend=backend, timeout=patience, auto_mpi_discovery=False)
    except (RuntimeError, ValueError) as error:
        raise CannotMeet(f"the processes could not meet at {place} ({backend}): {text_of(error)}") from error
    if dist.get_world_size() > 1:
        global _cpu_group
        on_cpu = MEETING_TIME if stall_minutes is None else collective_timeout("gloo", stall_minutes)
        _cpu_group = dist.new_group(backend="gloo", timeout=on_cpu)
    if device.type == "cuda":
        _check_own_gpus(device)


def cpu_group() -> dist.ProcessGroup | None:
    """All processes over gloo: no GPU waits, and the end of one ends a wait of the others. None: they have one group only."""
    return _cpu_group


def wait_on_cpu() -> None:
    """Wait for all processes; no GPU waits.

    Raises:
        RuntimeError: one of them has ended.
    """
    if world_size() > 1:
        dist.barrier(_cpu_group)


def own_cores() -> int:
    """Whole cores of this process, of which processes that sit on the same ones have a fair share each. Call on every process."""
    everyone = [CoreUse.from_json(text) for text in exchange(own_use().to_json())]
    return share_of_cores(own_use(), everyone)


def collective_timeout(backend: str, stall_minutes: float) -> timedelta:
    """How long a collective may take beside a watchdog that ends the process after ``stall_minutes``.

    NCCL's ends first, because its time-out writes the flight recorder. Gloo records nothing and would end the processes
    that wait, and through the launcher the one that they wait for, before the watchdog has shown where that one hangs.
    """
    return timedelta(minutes=stall_minutes * (0.75 if backend == "nccl" else 1.25))


def _check_own_gpus(device: torch.device) -> None:
    uuid = str(torch.cuda.get_device_properties(device).uuid)
    shared = shared_gpu(gather_objects((platform.node(), uuid)))
    if shared is not None:
        raise UserError(
            f"ranks {shared[0]} and {shared[1]} have the same GPU; start one process for each GPU, "
            "and give each task its own (Slurm: --gpus-per-node, or --gpus-per-task=1)"
        )


def shutdown() -> None:
    """End what the processes have in common. Call on every process when its work is done.

    The process group is destroyed, unless it is one of NCCL's that ends with the program: then rank 0, whose store the
    others still need, waits a moment for them.
    """
    global _cpu_group
    if not dist.is_initialized():
        return
    if leaves_at_once():
        part()
    else:
        dist.destroy_process_group()
        _cpu_group = None


def rank() -> int:
    """This process's rank; 0 without a process group."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Number of processes; 1 without a process group."""
    return dist.get_world_size() if dist.is_initialized() else 1


def is_main() -> bool:
    """Whether this process writes logs and files for all."""
    return rank() == 0


def barrier() -> None:
    """Wait for all processes."""
    if world_size() > 1:
        dist.barrier()


def all_reduce_sum(tensor: Tensor) -> Tensor:
    """Sum ``tensor`` over the processes, in place, and return it."""
    if world_size() > 1:
        dist.all_reduce(tensor, op=dist.ReduceOp.SUM)
    return tensor


def all_gather(tensor: Tensor) -> Tensor:
    """Every process's ``tensor``, all of one shape and type, on every process: (processes, ...) in rank order."""
    if world_size() == 1:
        return tensor.unsqueeze(0)
    gathered = [torch.empty_like(tensor) for _ in range(world_size())]
    dist.all_gather(gathered, tensor.contiguous())
    return torch.stack(gathered)


def broadcast_object(value: T) -> T:
    """The main process's ``value`` on every process."""
    if world_size() == 1:
        return value
    box: list[Any] = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def gather_objects(value: T) -> Sequence[T]:
    """Every process's ``value``, in rank order, on every process."""
    if world_size() == 1:
        return [value]
    gathered: list[Any] = [None] * world_size()
    dist.all_gather_object(gathered, value)
    return gathered


def main_first(action: Callable[[], T]) -> T:
    """Run ``action`` on the main process alone and give its result, or its error, to all.

    An error on one process alone would leave the others waiting in their next collective.
    """
    outcome: tuple[T | None, str | None] = (None, None)
    if is_main():
        try:
            outcome = (action(), None)
        except (UserError, OSError) as error:
            outcome = (None, text_of(error))
    result, problem = broadcast_object(outcome)
    if problem is not None:
        raise UserError(problem)
    return result  # type: ignore[return-value]


def _silence_renamed_collectives() -> None:
    """DeepSpeed calls collectives by names that newer PyTorch renamed; nobody who trains can do anything about it.

    Each process would say it several times, between the lines of the run.
    """
    names = "all_gather_into_tensor|_all_gather_base|reduce_scatter_tensor|_reduce_scatter_base|gather_into_tensor"
    warnings.filterwarnings(
        "ignore", rf"`torch\.distributed\.({names})` is", FutureWarning, r"torch\.distributed\.c10d_logger"
    )


def _do_without_compiled_reduction() -> None:
    """Let gloo do all reductions on the CPU instead of an extension that DeepSpeed compiles at the first start.

    The build takes half a minute and a C++ compiler, and one that is killed leaves a lock on which later starts wait
    for ever.
    """
    backend = importlib.import_module("deepspeed.comm.torch")  # as an attribute of deepspeed.comm, `torch` is torch
    backend.build_shm_op = lambda: None  # type: ignore[attr-defined]
