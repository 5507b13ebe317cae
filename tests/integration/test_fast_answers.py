"""What needs no PyTorch is answered without importing it: that alone takes seconds."""

from __future__ import annotations

import subprocess
import sys

import pytest
from support import ROOT, program_environment

QUICK = (
    "benchmark_loader",
    "experiment",
    "export",
    "profile_flops",
    "report",
    "train",
    "transfer_eval",
    "gpu_check",
    "plan",
    "visualize_attention",
)
WITHOUT_TORCH = (
    "import runpy, sys; sys.modules['torch'] = None; sys.argv = sys.argv[1:]; sys.path.insert(0, 'tools'); "
    "runpy.run_path(sys.argv[0], run_name='__main__')"
)


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        *[([f"tools/{name}.py", "--help"], 0, "usage: ") for name in QUICK],
        (["tools/train.py", "--config", "configs/demo.py", "optim.lrr=1"], 2, "error: unknown key 'optim.lrr'"),
        (
            ["tools/plan.py", "--config", "configs/gone.py", *"--nodes 1 --gpus-per-node 8".split()],
            2,
            "no configuration file",
        ),
        (["tools/train.py", "--config", "configs/gone.py"], 2, "error: no configuration file"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_answers_without_pytorch(arguments: list[str], status: int, said: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, *arguments],
        cwd=ROOT,
        env=program_environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == status, done.stderr
    assert said in done.stdout + done.stderr
