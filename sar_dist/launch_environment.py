"""What the launcher says about a process, in environment variables: its rank and where the processes meet.

deepspeed, torchrun and Kubernetes set RANK and its kin themselves. Slurm, Open MPI and the MPICH family (Intel MPI,
MVAPICH) have names of their own, which are translated here, once, before anything else reads them.
"""

from __future__ import annotations

import os
import re
import zlib

from sar_dist.errors import UserError, shortened

# RANK, LOCAL_RANK, WORLD_SIZE. Open MPI's come first: its daemons may be tasks of a Slurm step themselves.
_NAMES_OF_LAUNCHERS = (
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_SIZE"),
    ("PMI_RANK", "MPI_LOCALRANKID", "PMI_SIZE"),
    ("SLURM_PROCID", "SLURM_LOCALID", "SLURM_STEP_NUM_TASKS"),
)
_SIZES = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS")
_SIZES_PER_NODE = (("OMPI_COMM_WORLD_LOCAL_SIZE", "OMPI_COMM_WORLD_SIZE"), ("MPI_LOCALNRANKS", "PMI_SIZE"))
_OWN_LAUNCHERS = ("TORCHELASTIC_RUN_ID", "CROSS_SIZE")  # torchrun's and deepspeed's, which may start worlds of one
_FIRST_PORT, _PORTS = 20000, 10000
_MOST_PROCESSES = 2**20


class WrongRank(UserError):
    """Variables by which a process cannot tell which one it is, so that each says it."""

    for_every_process = True


def read_environment() -> tuple[int, int, int]:
    """Rank, local rank and world size given by the launcher; (0, 0, 1) for plain ``python``.

    Works before any process group exists. Slurm's names count only inside a job step: in the batch script they
    describe the job.

    Raises:
        UserError: the variables are set but are not numbers, contradict each other, or say that several processes
            are to train alone in one directory.
    """
    given = "RANK" in os.environ
    if not given:
        _translate()
    try:
        rank, local_rank, world = (
            int(os.environ.get(name, default))
            for name, default in (("RANK", "0"), ("LOCAL_RANK", "0"), ("WORLD_SIZE", "1"))
        )
    except ValueError as error:
        raise WrongRank(f"RANK, LOCAL_RANK and WORLD_SIZE must be numbers: {shortened(str(error))}") from error
    if not 0 <= rank < world <= _MOST_PROCESSES or local_rank < 0:
        raise WrongRank(
            f"RANK={rank} and LOCAL_RANK={local_rank} do not fit WORLD_SIZE={world}; start with deepspeed, torchrun, srun, mpirun "
            "or plain python"
        )
    if world == 1 and not any(name in os.environ for name in _OWN_LAUNCHERS):
        _refuse_several_worlds_of_one(given)
    if os.environ.get("OMPI_COMM_WORLD_LOCAL_RANK", str(local_rank)) != str(local_rank):
        del os.environ["OMPI_COMM_WORLD_LOCAL_RANK"]  # mpirun started the launcher; DeepSpeed would stop at both
    return rank, local_rank, world


def find_meeting_place(world: int) -> tuple[str, int]:
    """Host and port of rank 0's store, from MASTER_ADDR and MASTER_PORT or, where they are missing, the allocation.

    The environment is completed, so that PyTorch and DeepSpeed find the same place.

    Raises:
        UserError: several processes have nothing to agree on a place by; MASTER_PORT is no port.
    """
    if missing := [name for name in ("MASTER_ADDR", "MASTER_PORT") if not os.environ.get(name, "").strip()]:
        host, port = _derived_place(world)
        os.environ.update(
            {name: value for name, value in (("MASTER_ADDR", host), ("MASTER_PORT", str(port))) if name in missing}
        )
    port_text = os.environ["MASTER_PORT"]
    if not (port_text.isascii() and port_text.isdecimal()) or not 0 < int(port_text) < 65536:
        raise UserError(f"MASTER_PORT={port_text} is not a port; use a number from 1024 to 65535")
    return os.environ["MASTER_ADDR"], int(port_text)


def first_host(hosts: str) -> str:
    """The first host of a Slurm list such as ``gpu[003-007,12]-ib,login1``, which is where rank 0 runs."""
    first = re.match(r"(?:[^,\[]|\[[^\]]*\])*", hosts)
    return re.sub(r"\[([^\],-]*)[^\]]*\]", r"\1", first[0] if first else "")


def _translate() -> None:
    for names in _NAMES_OF_LAUNCHERS:
        if names[0].startswith("SLURM") and "SLURM_STEP_ID" not in os.environ:
            continue
        if all(name in os.environ for name in names):
            for name, theirs in zip(("RANK", "LOCAL_RANK", "WORLD_SIZE"), names, strict=True):
                os.environ.setdefault(name, os.environ[theirs])
            return


def _refuse_several_worlds_of_one(given: bool) -> None:
    for name in _SIZES:
        size = os.environ.get(name, "1")
        if name.startswith("SLURM") and "SLURM_STEP_ID" not in os.environ:
            continue
        if size.isdecimal() and int(size) > 1:
            why = "RANK and WORLD_SIZE say 1: unset them" if given else "their local ranks are unknown: set LOCAL_RANK"
            raise UserError(
                f"{size} processes were started ({name}), but {why}, or use srun, mpirun (Open MPI), torchrun or deepspeed"
            )


def _derived_place(world: int) -> tuple[str, int]:
    """A place that every process of the run finds by itself."""
    if "SLURM_STEP_ID" in os.environ and "SLURM_JOB_ID" in os.environ:
        hosts = os.environ.get("SLURM_STEP_NODELIST") or os.environ.get("SLURM_JOB_NODELIST", "")
        alone = os.environ.get("SLURM_STEP_NUM_NODES") == "1"
        if alone or first_host(hosts):
            names = ("SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_RESTART_COUNT")
            return "127.0.0.1" if alone else first_host(hosts), _port_of(*(os.environ.get(name, "") for name in names))
    for here, everywhere in _SIZES_PER_NODE:
        if os.environ.get(everywhere, "") == os.environ.get(here) == str(world):
            # All are children of one daemon, whose job name, or else process id, they share.
            return "127.0.0.1", _port_of(os.environ.get("PMIX_NAMESPACE", ""), str(os.getppid()))
    raise UserError(
        f"{world} processes have nowhere to meet: set MASTER_ADDR to the host of rank 0 and MASTER_PORT to a free port, "
        "the same for all of them (mpirun: -x MASTER_ADDR -x MASTER_PORT)"
    )


def _port_of(*names: str) -> int:
    return _FIRST_PORT + zlib.crc32("/".join(names).encode()) % _PORTS
