"""Health check of a job's nodes before training starts: one process for each GPU, placed as training's will be.

    srun python slurm/preflight.py --out FOLDER --run RUN_DIRECTORY --gpus 8

Every process writes its verdict, "ok: ..." or "bad: ...", and lines "warning: ..." to FOLDER/NODE.LOCAL_RANK. One without a
file gave no answer. Processes that waited in vain for another are not to blame: only the node that cannot be reached, or
whose process did not come, is bad. A warning is for a person: training works, but slower than it could.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
from pathlib import Path

import torch
from link_checks import check_links
from node_checks import Findings, compiler_problem, gpu_problems, machine_problems, place_warning

from sar_dist.devices import find_device
from sar_dist.errors import UserError
from sar_dist.library_defaults import set_library_defaults
from sar_dist.processes import available_cores


def main() -> None:
    # The warning before the end of the time limit is meant for training; here it must not make a node look sick.
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    arguments = parse_arguments()
    local_rank = int(os.environ.get("SLURM_LOCALID", 0))
    node = os.environ.get("SLURMD_NODENAME", socket.gethostname())
    set_library_defaults(cuda=arguments.gpus > 0)
    findings = Findings()
    if local_rank == 0:
        findings.problems += machine_problems(arguments)
    device = check_device(findings, arguments.gpus, local_rank)
    findings.notes.append(f"{available_cores()} cores a process")
    check_links(findings, arguments, device, node)
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / f"{node}.{local_rank}").write_text(findings.text())
    print(findings.text(), end="", flush=True)
    os._exit(1 if findings.problems else 0)  # a communicator that failed may hang in its destructor


def check_device(findings: Findings, gpus: int, local_rank: int) -> torch.device | None:
    """This process's device, or None if it cannot compute on the one that it should have."""
    if gpus == 0:
        return torch.device("cpu")
    if local_rank == 0 and (problem := compiler_problem()):
        findings.warnings.append(problem)
    try:
        device = find_device(local_rank)
    except UserError as error:
        findings.problems.append(str(error))
        return None
    if device.type == "cpu":
        findings.problems.append(f"0 of {gpus} GPUs are usable")
        return None
    own = "SLURM_GPUS_PER_TASK" in os.environ  # Slurm shows a task no other
    found = gpu_problems(device, 1 if own else gpus)
    findings.problems += found
    if not found and (warning := place_warning(device, os.sched_getaffinity(0))):
        findings.warnings.append(warning)
    return None if found else device


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for the verdicts, shared by all nodes")
    parser.add_argument("--run", type=Path, required=True, help="run directory, shared by all nodes")
    parser.add_argument("--gpus", type=int, default=0, help="GPUs that each node must have")
    parser.add_argument("--memory-gib", type=float, default=8, help="free memory (default %(default)s)")
    parser.add_argument("--shm-gib", type=float, default=1, help="free space in /dev/shm (default %(default)s)")
    parser.add_argument("--tmp-gib", type=float, default=1, help="free space in the temporary folder (%(default)s)")
    parser.add_argument("--run-gib", type=float, default=10, help="free space for checkpoints (default %(default)s)")
    parser.add_argument("--clock-seconds", type=float, default=5, help="allowed difference of clocks (%(default)s)")
    parser.add_argument("--min-gbps", type=float, default=0, help="all-reduce over all nodes, Gbit/s (0: not judged)")
    parser.add_argument("--min-node-gbps", type=float, default=0, help="the same inside a node (0: not judged)")
    parser.add_argument(
        "--min-gpu-share",
        type=float,
        default=0,
        help="speed of a GPU, as a share of its node's median, below which the node is bad (0: below 0.9 is a warning)",
    )
    parser.add_argument("--megabytes", type=float, help="size of the all-reduce (default 256, without GPUs 4)")
    parser.add_argument("--patience", type=float, default=60, help="seconds to wait for other processes (%(default)s)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
