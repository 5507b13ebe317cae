"""What a two-process ZeRO-2 run has learnt computes the same logits in a fresh process that has timm alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from support import program_environment, run_processes, tool

from sar_dist.checkpoint import CheckpointReader
from sar_dist.models import build_model
from sar_dist.models.export import export_run
from sar_dist.models.weights import open_run

FRESH_PROCESS = """
import sys, timm, torch
from safetensors.torch import load_file, save_file
torch.set_num_threads(1)
if sys.argv[1] == "register":
    import sar_dist.models
images = load_file("images.safetensors")["images"]
with torch.no_grad():
    logits = {
        name: timm.create_model(f"local-dir:{name}", pretrained=True).eval()(images) for name in ("live", "ema")
    }
assert ("sar_dist" in sys.modules) is (sys.argv[1] == "register")
save_file(logits, "logits.safetensors")
"""


def fresh_process(folder: Path, registration: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", FRESH_PROCESS, registration],
        cwd=folder,
        env=program_environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize("no_skip", [False, True])
def test_logits_are_the_same_in_a_fresh_process(no_skip: bool, small_config: Path, tmp_path: Path) -> None:
    arguments = ["engine.zero_stage=2", "optim.ema=0.9", f"model.no_skip_last_block={str(no_skip).lower()}"]
    run_processes(2, "tools/train.py", f"--config={small_config}", *arguments, "run.max_steps=3", "optim.lr=0.01")

    images = torch.randn(4, 3, 32, 32)
    save_file({"images": images}, tmp_path / "images.safetensors")
    config, reader = open_run(tmp_path / "runs" / "small")
    assert (reader.manifest.world_size, reader.step) == (2, 3)
    expected = {}
    for name, ema in (("live", False), ("ema", True)):
        export_run(tmp_path / "runs" / "small", tmp_path / name, ema=ema)
        model = build_model(config.model, config.regularizer).eval()
        model.vit.load_state_dict(reader.state_dict(ema=ema))
        with torch.no_grad():
            expected[name] = model(images)["logits"]
    assert not torch.allclose(expected["live"], expected["ema"], atol=1e-4)

    plain = fresh_process(tmp_path, "plain timm")
    if no_skip:
        assert plain.returncode != 0
        assert "Unknown model (sar_vision_transformer)" in plain.stderr
        registered = fresh_process(tmp_path, "register")
        assert registered.returncode == 0, registered.stderr
    else:
        assert plain.returncode == 0, plain.stderr
    for name, logits in load_file(tmp_path / "logits.safetensors").items():
        torch.testing.assert_close(logits, expected[name], rtol=0, atol=1e-6)
    if no_skip:
        start_from_export(tmp_path / "ema", small_config, reader)


def start_from_export(export: Path, config: Path, reader: CheckpointReader) -> None:
    """One step of a new run from an export, with a learning rate that changes next to nothing."""
    options = ["optim.lr=1e-9", "optim.warmup_lr=1e-9", "optim.min_lr=0", "run.name=second", "run.max_steps=1"]
    started = tool("tools/train.py", f"--config={config}", f"model.init_from={export}", *options)
    assert started.status == 0, started.stderr
    assert f"initial weights: {len(reader.shapes)} tensors from {export / 'model.safetensors'}" in started.stdout
    first = open_run(export.parent / "runs" / "second")[1].state_dict()
    for name, weights in reader.state_dict(ema=True).items():
        torch.testing.assert_close(first[name], weights, rtol=0, atol=1e-5)
