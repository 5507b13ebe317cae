"""ZeRO 1-3 on one and two processes train exactly like a plain PyTorch loop that shares nothing with the engine."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import timm
import torch
from support import SMALL_CONFIG, read_metrics, run_processes
from torch import Tensor
from torch.nn import functional

from sar_dist.config import RunConfig, load_config
from sar_dist.data import TrainLoader, load_manifest
from sar_dist.data.images.augment import build_train_transform
from sar_dist.regularizer import spatial_entropy_definition

STEPS = 5


def plain_model(config: RunConfig) -> torch.nn.Module:
    torch.manual_seed(config.run.seed)
    return timm.create_model(
        config.model.name, img_size=32, patch_size=8, num_classes=4, drop_path_rate=0.0, **config.model.options
    ).train()


def plain_forward(vit: torch.nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """Logits and [CLS] similarity of the no-skip model, written down from the paper with dense attention."""
    x = vit._pos_embed(vit.patch_embed(images))
    for block in vit.blocks[:-1]:
        x = block(x)
    last = vit.blocks[-1]
    heads = last.attn.num_heads
    batch, tokens, width = x.shape
    q, k, v = last.attn.qkv(last.norm1(x)).reshape(batch, tokens, 3, heads, width // heads).permute(2, 0, 3, 1, 4)
    scores = q @ k.transpose(-2, -1) / math.sqrt(width // heads)
    x = last.attn.proj((scores.softmax(-1) @ v).transpose(1, 2).reshape(batch, tokens, width))
    x = x + last.mlp(x)
    return vit.head(vit.norm(x)[:, 0]), scores[:, :, 0, 1:].reshape(batch, heads, 4, 4)


@pytest.fixture(scope="module")
def plain_losses(small_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    path = tmp_path_factory.mktemp("plain") / "settings" / "small.py"
    path.parent.mkdir()
    path.write_text(SMALL_CONFIG.format(runs="unused", data=str(small_shards)))
    config = load_config(path)
    loader = TrainLoader(
        load_manifest(small_shards, "train"),
        data=config.data,
        transform=build_train_transform(config.augment, 32, config.data.max_pixels),
        global_batch=16,
        micro_batch=16,
        rank=0,
        world_size=1,
        seed=0,
        num_classes=4,
    )
    vit = plain_model(config)
    unused = {"blocks.1.norm2.weight", "blocks.1.norm2.bias"}
    named = {name: parameter for name, parameter in vit.named_parameters() if name not in unused}
    kept = {name for name, parameter in named.items() if parameter.ndim < 2 or name in ("cls_token", "pos_embed")}
    optimizer = torch.optim.AdamW(
        [
            {"params": [parameter for name, parameter in named.items() if name not in kept], "weight_decay": 0.05},
            {"params": [parameter for name, parameter in named.items() if name in kept], "weight_decay": 0.0},
        ],
        lr=1e-3,
    )
    mean, std = (torch.tensor(values)[:, None, None] for values in (config.augment.mean, config.augment.std))
    steps_per_epoch, losses = 6, []
    for step, batch in enumerate(loader.iterate(0, STEPS)):
        for group in optimizer.param_groups:  # all five steps lie in the warm-up epoch
            group["lr"] = 1e-6 + (1e-3 - 1e-6) * step / steps_per_epoch
        logits, similarity = plain_forward(vit, (batch["image"].float() / 255 - mean) / std)
        entropy = spatial_entropy_definition(similarity).mean()
        loss = functional.cross_entropy(logits, batch["label"]) + 0.1 * step / steps_per_epoch * entropy
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(named.values(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    return losses


def losses_of_tool(config_file: Path, world_size: int, *overrides: str) -> list[float]:
    """Loss of each step as tools/train.py logs it, 2 or 4 accumulated micro-batches a step."""
    run_processes(
        world_size,
        "tools/train.py",
        f"--config={config_file}",
        f"run.max_steps={STEPS}",
        "engine.micro_batch=4",
        "profile.sample_every=1",  # being timed must not change a step
        "engine.deepspeed.zero_optimization.stage3_param_persistence_threshold=0",
        *overrides,
    )
    run = config_file.parent.parent / "runs" / "small"
    metrics = read_metrics(run)
    timed = read_metrics(run, "step_seconds")
    assert sorted(timed) == list(range(2, STEPS + 1))
    assert world_size == 1 or all(values["communication"] > 0 for values in timed.values())
    return [metrics[step]["loss"] for step in range(1, STEPS + 1)]


@pytest.mark.parametrize("world_size", [1, 2])
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_engine_trains_like_a_plain_loop(
    stage: int, world_size: int, small_config: Path, plain_losses: list[float]
) -> None:
    losses = losses_of_tool(small_config, world_size, f"engine.zero_stage={stage}")
    assert losses == pytest.approx(plain_losses, rel=1e-5)
    assert len(set(losses)) == STEPS


SWITCHES = [
    ("1", "engine.activation_checkpointing=true", "optim.fused=false"),
    ("3", "engine.activation_checkpointing=true", "engine.offload=all"),
    pytest.param(("2", "engine.offload=optimizer"), marks=pytest.mark.long),
    pytest.param(("1", "engine.compile=true"), marks=pytest.mark.long),
    pytest.param(("2", "engine.compile=true", "engine.activation_checkpointing=true"), marks=pytest.mark.long),
    pytest.param(("3", "engine.compile=true"), marks=pytest.mark.long),
    pytest.param(("3", "engine.compile=true", "engine.activation_checkpointing=true"), marks=pytest.mark.long),
    pytest.param(("3", "engine.activation_checkpointing=true"), marks=pytest.mark.long),
    pytest.param(("3", "engine.offload=optimizer", "optim.fused=false"), marks=pytest.mark.long),
]


@pytest.mark.parametrize("switches", SWITCHES, ids=" ".join)
def test_switches_change_no_loss(switches: tuple[str, ...], small_config: Path, plain_losses: list[float]) -> None:
    stage, *overrides = switches
    losses = losses_of_tool(small_config, 2, f"engine.zero_stage={stage}", *overrides)
    assert losses == pytest.approx(plain_losses, rel=1e-5)
