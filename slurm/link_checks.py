"""What preflight.py looks at between processes: who comes, how fast the GPUs and the links are, and the clocks."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import time
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from node_checks import Findings, finish, first_line, matmul_tflops, slow_share

MIB = 2**20
LINGER_SECONDS = 2.0  # rank 0 serves the others until they have seen who is absent too


@dataclass
class Facts:
    """What the processes tell each other: node, TFLOP/s, and whether their device works."""

    node: str
    tflops: float
    fit: bool


def check_links(findings: Findings, arguments: argparse.Namespace, device: torch.device | None, node: str) -> None:
    """Meet the other processes, then measure together. ``device`` is None where there is none to measure with."""
    rank, world = int(os.environ.get("SLURM_PROCID", 0)), int(os.environ.get("SLURM_STEP_NUM_TASKS", 1))
    address = (os.environ.get("MASTER_ADDR", "127.0.0.1"), int(os.environ.get("MASTER_PORT", 29500)) + 1)
    patience = timedelta(seconds=arguments.patience)
    try:
        store = dist.TCPStore(*address, is_master=rank == 0, timeout=patience, wait_for_workers=False)
        absent = wait_for_all(store, "here", rank, world, arguments.patience)
    except (RuntimeError, ValueError) as error:
        findings.problems.append(f"cannot reach {address[0]}:{address[1]}: {first_line(error)}")
        return
    if absent:
        findings.notes = [waited_for(absent, rank, world)]
        return
    own = measure_device(findings, device, node)
    store.set(f"facts{rank}", json.dumps(vars(own)))
    if absent := wait_for_all(store, "measured", rank, world, arguments.patience):
        findings.notes = [waited_for(absent, rank, world)]
        return
    everyone = [Facts(**json.loads(text)) for text in store.multi_get([f"facts{each}" for each in range(world)])]
    if arguments.gpus:
        judge_speed(findings, own, everyone, arguments.min_gpu_share)
    if device is None or not all(facts.fit for facts in everyone):
        # A collective would wait for the one that cannot take part, and make every node look bad.
        leave(store, rank, world)
        findings.notes.append("links not tested, because a device somewhere does not work")
        return
    try:
        measure_links(findings, arguments, device, (store, rank, world, patience), everyone)
    except (RuntimeError, ValueError) as error:  # what torch.distributed raises, time-outs included
        findings.problems.append(f"all-reduce failed: {first_line(error)}")


def leave(store: dist.Store, rank: int, world: int) -> None:
    """Say that this process needs the store no more; rank 0, which holds it, waits a moment for the others to say so."""
    if rank == 0:
        wait_for_all(store, "leaving", rank, world, LINGER_SECONDS)
        return
    with contextlib.suppress(RuntimeError):  # rank 0 has gone
        store.set(f"leaving{rank}", "")
        store.add("leaving", 1)


def waited_for(absent: list[int], rank: int, world: int) -> str:
    """What a process says that is not to blame."""
    time.sleep(LINGER_SECONDS if rank == 0 else 0)
    return f"waited in vain for rank {', '.join(map(str, absent[:16]))} of {world}"


def measure_device(findings: Findings, device: torch.device | None, node: str) -> Facts:
    """The speed of this process's device, all at the same time: heat and power are then as in training."""
    if device is None:
        return Facts(node, 0.0, fit=False)
    try:
        return Facts(node, matmul_tflops(device), fit=True)
    except RuntimeError as error:
        findings.problems.append(f"{device}: {first_line(error)}")
        return Facts(node, 0.0, fit=False)


def wait_for_all(store: dist.Store, what: str, rank: int, world: int, patience: float) -> list[int]:
    """Say that this process has come as far as ``what``; the ranks that have not in time."""
    store.set(f"{what}{rank}", "")
    store.add(what, 1)
    deadline = time.monotonic() + patience
    while store.add(what, 0) < world:
        if time.monotonic() > deadline:
            return [number for number in range(world) if not store.check([f"{what}{number}"])]
        time.sleep(0.2)
    return []


def judge_speed(findings: Findings, own: Facts, everyone: list[Facts], min_share: float) -> None:
    """Note the speed of this process's device; warn, or complain, where it is slow for its node."""
    if not own.fit:
        return
    findings.notes.append(f"{own.tflops:.3g} TFLOP/s")
    speeds = [facts.tflops for facts in everyone if facts.node == own.node and facts.fit]
    share = slow_share(own.tflops, speeds)
    if share is None:
        return
    text = f"multiplies matrices at {share:.0%} of the median speed of its node ({own.tflops:.3g} TFLOP/s)"
    where = f"GPU {torch.cuda.current_device()}" if torch.cuda.is_initialized() else "a process"
    (findings.problems if share < min_share else findings.warnings).append(f"{where} {text}")


def measure_links(
    findings: Findings,
    arguments: argparse.Namespace,
    device: torch.device,
    meeting: tuple[dist.Store, int, int, timedelta],
    everyone: list[Facts],
) -> None:
    """All-reduces inside the node and over all of them, and the clocks over gloo, as training uses it beside NCCL."""
    store, rank, world, patience = meeting
    on_gpu = device.type == "cuda"
    backend = "cpu:gloo,cuda:nccl" if on_gpu else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=world, timeout=patience)
    size = int((arguments.megabytes or (256 if on_gpu else 4)) * MIB)
    here = [number for number, facts in enumerate(everyone) if facts.node == everyone[rank].node]
    nodes = len({facts.node for facts in everyone})
    if 1 < len(here) < world:
        group = dist.new_group(here, timeout=patience, use_local_synchronization=True)
        speed = all_reduce_gbps(size, device, group)
        findings.notes.append(f"all-reduce over {len(here)} processes of the node at {speed:.2f} Gbit/s")
        if speed < arguments.min_node_gbps:
            findings.problems.append(
                f"all-reduce inside the node at {speed:.2f} Gbit/s, {arguments.min_node_gbps:g} wanted"
            )
    speed = all_reduce_gbps(size, device)
    least = arguments.min_gbps if nodes > 1 else arguments.min_node_gbps
    if world > 1 and speed < least:
        findings.problems.append(f"all-reduce at {speed:.2f} Gbit/s, {least:g} wanted")
    late = clock_offset()
    if abs(late) > arguments.clock_seconds:
        findings.problems.append(f"the clock is {late:+.1f} s off the other nodes'")
    dist.barrier()
    name = "nccl" if on_gpu else "gloo"
    links = (
        f"all-reduce over {nodes} nodes at {speed:.2f} Gbit/s ({name})" if world > 1 else f"no link to test ({name})"
    )
    findings.notes.insert(0, links)
    findings.notes.append(f"clock {late:+.3f} s")


def all_reduce_gbps(size: int, device: torch.device, group: Any = None, repeats: int = 5) -> float:
    """Bus bandwidth of an all-reduce in Gbit/s: what the slowest link carries, independent of the number of processes.

    Raises:
        RuntimeError: the sum is wrong.
    """
    processes = dist.get_world_size(group)
    tensor = torch.ones(size // 4, device=device)
    dist.all_reduce(tensor, group=group)  # makes the connections
    if not bool((tensor == processes).all().item()):
        raise RuntimeError("wrong sum")
    finish(device)
    start = time.perf_counter()
    for _ in range(repeats):
        dist.all_reduce(tensor, group=group)
    finish(device)
    seconds = (time.perf_counter() - start) / repeats
    return 2 * (processes - 1) / processes * size * 8 / seconds / 1e9


def clock_offset() -> float:
    """Seconds that this node's clock is ahead of the median process's; exact to the duration of a barrier. Over gloo."""
    mine = torch.zeros(1, dtype=torch.float64)
    everyone = [torch.zeros_like(mine) for _ in range(dist.get_world_size())]
    dist.all_reduce(mine)  # leaves all processes at about the same time, as a barrier does
    mine += time.time()
    dist.all_gather(everyone, mine)
    return mine.item() - statistics.median(clock.item() for clock in everyone)
