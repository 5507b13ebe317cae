"""Processes: rank, world size, set-up under every launcher, and reductions that also work in one process.

Nothing here needs a GPU, and every function is correct before (or without) a process group.
"""

from __future__ import annotations

import importlib
import os
import socket
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from sar_dist.errors import CannotMeet, UserError

T = TypeVar("T")

_SLURM_NAMES = {"RANK": "SLURM_PROCID", "LOCAL_RANK": "SLURM_LOCALID", "WORLD_SIZE": "SLURM_STEP_NUM_TASKS"}


def read_environment() -> tuple[int, int, int]:
    """Rank, local rank and world size given by the launcher; (0, 0, 1) for plain ``python``.

    Works before any process group exists. Under plain ``srun`` the SLURM_* names are mapped to the env:// names
    first: only inside a job step and only if the launcher has not set RANK, because DeepSpeed would try MPI otherwise.

    Raises:
        UserError: the variables are set but are not numbers, or contradict each other.
    """
    if "RANK" not in os.environ and "SLURM_STEP_ID" in os.environ:
        for name, slurm_name in _SLURM_NAMES.items():
            if slurm_name in os.environ:
                os.environ.setdefault(name, os.environ[slurm_name])
    try:
        rank, local_rank, world = (
            int(os.environ.get(name, default))
            for name, default in (("RANK", "0"), ("LOCAL_RANK", "0"), ("WORLD_SIZE", "1"))
        )
    except ValueError as error:
        raise UserError(f"RANK, LOCAL_RANK and WORLD_SIZE must be numbers: {error}") from error
    if not 0 <= rank < world:
        raise UserError(
            f"RANK={rank} does not fit WORLD_SIZE={world}; start with deepspeed, torchrun, srun or plain python"
        )
    return rank, local_rank, world


def select_device(local_rank: int) -> torch.device:
    """This process's GPU, or the CPU where there is none.

    Raises:
        UserError: more processes on this node than GPUs.
    """
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
        return torch.device("cpu")
    if local_rank >= torch.cuda.device_count():
        raise UserError(
            f"local rank {local_rank} has no GPU: this node has {torch.cuda.device_count()}; start fewer processes"
        )
    torch.cuda.set_device(local_rank)
    return torch.device("cuda", local_rank)


def initialize(device: torch.device, timeout: timedelta = timedelta(minutes=30)) -> None:
    """Create the process group, through DeepSpeed so that its communication layer uses the same one.

    Raises:
        CannotMeet: the processes did not find each other in time, or the port is taken.
    """
    if dist.is_initialized():
        return
    if "RANK" not in os.environ:
        os.environ.update(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1")
    os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
    if "MASTER_PORT" not in os.environ:
        os.environ["MASTER_PORT"] = _free_port()
    import deepspeed  # slow to import: only once everything cheap has been checked

    backend = "nccl" if device.type == "cuda" else "gloo"
    if device.type == "cpu":
        _do_without_compiled_reduction()
    try:
        deepspeed.init_distributed(dist_backend=backend, timeout=timeout, auto_mpi_discovery=False)
    except (RuntimeError, ValueError) as error:
        address = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        raise CannotMeet(f"the processes could not meet at {address} ({backend}): {error}") from error


def shutdown() -> None:
    """Destroy the process group, if there is one."""
    if dist.is_initialized():
        dist.destroy_process_group()


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
            outcome = (None, str(error))
    result, problem = broadcast_object(outcome)
    if problem is not None:
        raise UserError(problem)
    return result  # type: ignore[return-value]


def _do_without_compiled_reduction() -> None:
    """Let gloo do all reductions on the CPU instead of an extension that DeepSpeed compiles at the first start.

    The build takes half a minute and a C++ compiler, and one that is killed leaves a lock on which later starts wait
    for ever.
    """
    backend = importlib.import_module("deepspeed.comm.torch")  # as an attribute of deepspeed.comm, `torch` is torch
    backend.build_shm_op = lambda: None  # type: ignore[attr-defined]


def _free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])
