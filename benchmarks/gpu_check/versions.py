"""Says as JSON what a machine has that training on a GPU needs: python -m benchmarks.gpu_check.versions [cuda|cpu]"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

from sar_dist.environment import describe_environment


def describe(device_type: str) -> dict[str, Any]:
    """Versions, devices, and what is missing as ``problems``."""
    import torch

    from sar_dist.devices import select_device
    from sar_dist.errors import UserError

    problems: list[str] = []
    try:
        device = select_device(0)
    except UserError as error:
        problems.append(str(error))
        device = torch.device("cpu")
    if device.type != device_type and not problems:
        problems.append(f"PyTorch computes on {device.type} here, not on {device_type}")
    compiler = next(filter(None, map(shutil.which, (os.environ.get("CC", ""), "cc", "gcc", "clang"))), None)
    headers = Path(sysconfig.get_path("include")) / "Python.h"
    if compiler is None:
        problems.append("no C compiler: Triton and torch.compile need one (Debian: gcc)")
    if not headers.exists():
        problems.append(f"no {headers}: Triton needs Python's headers (Debian: python3-dev)")
    return {
        **describe_environment(1, device),
        "gpus": [_gpu(number) for number in range(torch.cuda.device_count())] if device.type == "cuda" else [],
        "driver": _driver(),
        "cuda_of_torch": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "nccl": ".".join(map(str, torch.cuda.nccl.version())) if device.type == "cuda" else None,
        "compiler": _first_line([compiler, "--version"]) if compiler else None,
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "problems": problems + _kernel_problems(device),
    }


def _kernel_problems(device: Any) -> list[str]:
    from sar_dist.regularizer import find_backend_problem

    problem = find_backend_problem("triton", device) if device.type == "cuda" else None
    return [] if problem is None else [f"the Triton kernel of the spatial entropy does not run: {problem}"]


def _gpu(number: int) -> str:
    import torch

    has = torch.cuda.get_device_properties(number)
    return f"{has.name}, {has.total_memory / 2**30:.0f} GiB, sm_{has.major}{has.minor}, {has.multi_processor_count} SMs"


def _driver() -> str | None:
    try:
        found = re.search(r"Module\s+(?:for \S+\s+)?([\d.]+)", Path("/proc/driver/nvidia/version").read_text())
    except OSError:
        return None
    return found[1] if found else None


def _first_line(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.SubprocessError) as error:
        return str(error)
    return (done.stdout or done.stderr).partition("\n")[0]


if __name__ == "__main__":
    print(json.dumps(describe(sys.argv[1] if len(sys.argv) > 1 else "cuda")))
