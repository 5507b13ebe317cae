"""What preflight.py looks at on a node alone: memory, disks, compiler, a GPU, and how near to it the process sits."""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import sysconfig
import tempfile
import time
from collections.abc import Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

GIB = 2**30
SLOW_SHARE = 0.9
PCI_DEVICES = Path("/sys/bus/pci/devices")


@dataclass
class Findings:
    """What a process found: what makes its node bad, what a person should know, and figures for the log."""

    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def text(self) -> str:
        """The verdict and the warnings, a line each."""
        verdict = f"bad: {'; '.join(self.problems)}" if self.problems else f"ok: {', '.join(self.notes)}"
        return "".join(f"{line}\n" for line in (verdict, *(f"warning: {each}" for each in self.warnings)))


def machine_problems(arguments: argparse.Namespace) -> list[str]:
    """Memory and disks."""
    problems = []
    available = free_memory() / GIB
    if available < arguments.memory_gib:
        problems.append(f"{available:.1f} GiB of memory free, {arguments.memory_gib:g} wanted")
    run = arguments.run
    while not run.exists():  # a new run's directory is made by training
        run = run.parent
    places = (("/dev/shm", arguments.shm_gib), (tempfile.gettempdir(), arguments.tmp_gib), (run, arguments.run_gib))
    for place, wanted in places:
        try:
            free = shutil.disk_usage(place).free / GIB
            with tempfile.TemporaryFile(dir=place) as stream:
                stream.write(b"x")
        except OSError as error:
            problems.append(f"cannot write to {place}: {error.strerror}")
            continue
        if free < wanted:
            problems.append(f"{free:.1f} GiB free in {place}, {wanted:g} wanted")
    return problems


def free_memory() -> int:
    """Bytes that can be allocated without swapping."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 0


def compiler_problem() -> str | None:
    """What Triton misses to build the code that launches its kernels, which also torch.compile needs; None: nothing."""
    missing = []
    compilers = os.environ.get("CC", "").split()[:1] or ["gcc", "clang"]  # as Triton looks for it
    if not any(map(shutil.which, compilers)):
        missing.append("C compiler ($CC, gcc or clang)")
    if not (Path(sysconfig.get_path("include")) / "Python.h").is_file():
        missing.append("Python.h (Debian: python3-dev)")
    if not missing:
        return None
    return f"no {' and no '.join(missing)}: the spatial entropy falls back to PyTorch, and engine.compile fails"


def gpu_problems(device: torch.device, expected: int) -> list[str]:
    """GPUs that are missing, and what is wrong with this process's own: occupied, or it cannot multiply."""
    found = torch.cuda.device_count()
    problems = [] if found >= expected else [f"{found} of {expected} GPUs are usable"]
    try:
        torch.cuda.set_device(device)
        free, total = torch.cuda.mem_get_info(device)
        if free < 0.9 * total:
            problems.append(f"GPU {device.index} has only {free / GIB:.0f} of {total / GIB:.0f} GiB free")
        if not multiplies(device):
            problems.append(f"GPU {device.index} computes wrong results")
    except RuntimeError as error:
        problems.append(f"GPU {device.index}: {first_line(error)}")
    return problems


def multiplies(device: torch.device) -> bool:
    """Whether a product of two matrices of ones is right."""
    ones = torch.ones(1024, 1024, device=device)
    return bool((ones @ ones == 1024).all().item())


def matmul_tflops(device: torch.device, seconds: float = 0.5) -> float:
    """TFLOP/s of products of large bfloat16 matrices (small float32 ones on a CPU), over at least so many seconds."""
    side, dtype = (8192, torch.bfloat16) if device.type == "cuda" else (256, torch.float32)
    left, right = (torch.ones(side, side, device=device, dtype=dtype) for _ in range(2))
    torch.mm(left, right)  # finds the kernel
    finish(device)
    products, start = 0, time.perf_counter()
    while (passed := time.perf_counter() - start) < seconds:
        for _ in range(10):
            torch.mm(left, right)
        finish(device)
        products += 10
    return 2 * side**3 * products / passed / 1e12


def slow_share(own: float, node: Sequence[float]) -> float | None:
    """Speed of a GPU as a share of the median over its node, if that is below ``SLOW_SHARE``."""
    share = own / statistics.median(node)
    return share if share < SLOW_SHARE else None


def place_warning(device: torch.device, allowed: Set[int], devices: Path = PCI_DEVICES) -> str | None:
    """A line where this process may run only, or mostly, on cores that are far from its GPU."""
    properties: Any = torch.cuda.get_device_properties(device)  # the stubs leave these out
    address = f"{properties.pci_domain_id:04x}:{properties.pci_bus_id:02x}:{properties.pci_device_id:02x}.0"
    return far_from(f"GPU {device.index}", near_cores(address, devices), allowed)


def near_cores(address: str, devices: Path = PCI_DEVICES) -> set[int]:
    """Cores on the socket of the PCI device with this address, such as 0000:3b:00.0; none where it is not known."""
    try:
        return parse_cores((devices / address / "local_cpulist").read_text())
    except (OSError, ValueError):
        return set()


def far_from(name: str, near: Set[int], allowed: Set[int]) -> str | None:
    """A line where less than half of the cores that a process may use are near, and it is not free to use all near ones."""
    if not near or near <= allowed or 2 * len(near & allowed) >= len(allowed):
        return None
    where = f"cores {write_cores(allowed)}, far from its {name} at cores {write_cores(near)}"
    return f"the process runs on {where}: set srun's --cpu-bind and --distribution (SAR_SRUN_ARGS)"


def parse_cores(text: str) -> set[int]:
    """The numbers in the kernel's notation, such as 0-23,96-119.

    Raises:
        ValueError: the text is something else.
    """
    cores: set[int] = set()
    for part in text.strip().split(","):
        first, _, last = part.partition("-")
        cores |= set(range(int(first), int(last or first) + 1)) if part else set()
    return cores


def write_cores(cores: Set[int]) -> str:
    """Numbers in the kernel's notation."""
    ranges: list[list[int]] = []
    for core in sorted(cores):
        if ranges and core == ranges[-1][1] + 1:
            ranges[-1][1] = core
        else:
            ranges.append([core, core])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in ranges)


def finish(device: torch.device) -> None:
    """Wait for what the device has been given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def first_line(error: Exception) -> str:
    """An exception's message without what follows its first line."""
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
