"""DINOv3's, EVA-02's and RoPE ViT's blocks train under ZeRO-3 as on one process, resume, compile, and are exported."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from support import read_metrics, run_processes

from sar_dist.models.export import export_run
from sar_dist.transfer import load_model

pytestmark = pytest.mark.long

COMMON = (
    "model.name=vit_small_patch16_dinov3",
    'model.options={"embed_dim": 32, "depth": 2, "num_heads": 2}',
    "model.drop_path=0.2",
    "engine.deepspeed.zero_optimization.stage3_param_persistence_threshold=0",
)
EVA02 = ("model.name=eva02_base_patch14_224", "model.patch_size=8", *COMMON[1:])
MIXED = ("model.name=vit_small_patch16_rope_mixed_ape_224", *COMMON[1:])
BIASED = ("model.name=eva02_tiny_patch14_224", *COMMON[1:])


def losses(config: Path, name: str, world_size: int, stage: int, last_step: int, *overrides: str) -> list[float]:
    """Losses of all steps so far of a run that goes on to ``last_step``."""
    further = (f"run.name={name}", f"run.max_steps={last_step}", f"engine.zero_stage={stage}")
    run_processes(world_size, "tools/train.py", f"--config={config}", *further, *overrides)
    metrics = read_metrics(config.parent.parent / "runs" / name)
    return [metrics[step]["loss"] for step in range(1, last_step + 1)]


def test_two_processes_resume_under_zero_3(small_config: Path, tmp_path: Path) -> None:
    """A run of two processes, stopped in the middle, has the losses of one process; its export is a plain timm model."""
    settings = ("engine.micro_batch=4", "model.no_skip_last_block=false", *COMMON)
    losses(small_config, "stopped", 2, 3, 2, *settings)
    stopped = losses(small_config, "stopped", 2, 3, 4, *settings)
    one = losses(small_config, "one", 1, 1, 4, *settings)
    assert stopped == pytest.approx(one, rel=1e-5)
    export_run(tmp_path / "runs" / "stopped", tmp_path / "export")
    plain = timm.create_model(f"local-dir:{tmp_path / 'export'}", pretrained=True).eval()
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(load_model(str(tmp_path / "export")).model(images)["logits"], plain(images))


@pytest.mark.parametrize("model", [EVA02, MIXED, BIASED], ids=lambda model: model[0])
def test_every_kind_is_the_same_under_every_stage(model: tuple[str, ...], small_config: Path) -> None:
    no_skip = ("model.no_skip_last_block=true", "engine.micro_batch=4")
    one = losses(small_config, "one", 1, 1, 4, *no_skip, *model)
    assert losses(small_config, "three", 2, 3, 4, *no_skip, *model) == pytest.approx(one, rel=1e-5)
    further = ("engine.activation_checkpointing=true", "engine.compile=true")
    assert losses(small_config, "compiled", 2, 3, 4, *no_skip, *further, *model) == pytest.approx(one, rel=1e-5)
