"""The optimizer of docs/extending.md, from a file outside the package: trained, planned, resumed on other processes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from support import ROOT, read_metrics, run_processes

from sar_dist.checkpoint import CheckpointReader


def trained(config_file: Path, name: str, starts: list[tuple[int, int, int]]) -> list[float]:
    """Losses of a run of several starts, each (processes, ZeRO stage, last step), with the page's optimizer."""
    page = (ROOT / "docs" / "extending.md").read_text()
    code = re.search(r"```python\n# sign_momentum\.py\n(.*?)```", page, re.DOTALL)
    assert code is not None
    (config_file.parent / "sign_momentum.py").write_text(code[1])
    own = ("optim.name=sign_momentum:SignMomentum", "optim.options.beta=0.8", "optim.lr=1e-4", "engine.micro_batch=4")
    for world_size, stage, stop in starts:
        settings = (f"run.name={name}", f"run.max_steps={stop}", f"engine.zero_stage={stage}")
        run_processes(world_size, "tools/train.py", f"--config={config_file}", *own, *settings)
    metrics = read_metrics(config_file.parent.parent / "runs" / name)
    return [metrics[step]["loss"] for step in range(1, starts[-1][2] + 1)]


def test_an_own_optimizer_resumes_bit_for_bit(small_config: Path, tmp_path: Path) -> None:
    unbroken = trained(small_config, "unbroken", [(2, 1, 4)])
    assert trained(small_config, "stopped", [(2, 1, 2), (2, 1, 4)]) == unbroken
    reader = CheckpointReader(tmp_path / "runs" / "stopped" / "checkpoints" / "step_00000004")
    assert any(torch.any(reader.parameter(name, "momentum") != 0) for name in reader.shapes)


@pytest.mark.long
def test_an_own_optimizer_resumes_on_other_processes_and_stages(small_config: Path) -> None:
    unbroken = trained(small_config, "unbroken", [(2, 1, 6)])
    moved = trained(small_config, "moved", [(1, 1, 2), (2, 3, 4), (2, 2, 6)])
    assert moved == pytest.approx(unbroken, rel=1e-5)
