"""What DeepSpeed's own Muon does to a clipped step, and what an update by this project's Muon takes beside AdamW's.

python benchmarks/muon.py              both on the CPU, 1 process
python benchmarks/muon.py --device cuda
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import deepspeed
import torch
from deepspeed.runtime.zero.muon.muon_optimizer import MuonWithAuxAdam
from torch.nn import functional

from sar_dist import distributed
from sar_dist.config import OptimSettings, RunConfig
from sar_dist.engine import build_engine, deepspeed_config, input_dtype, optimizer_of
from sar_dist.engine.muon import Muon
from sar_dist.models import TappedVisionTransformer, build_model, parameter_groups

NAME = "blocks.0.attn.qkv.weight"
RATE = 1e-3


def config(precision: str, optimizer: str) -> RunConfig:
    return RunConfig(
        run={"name": "muon"},
        model={"name": "vit_tiny_patch16_224", "image_size": 32, "patch_size": 8, "num_classes": 10},
        optim={
            "name": optimizer,
            **{
                "global_batch": 8,
                "lr": RATE,
                "lr_reference_batch": None,
                "weight_decay": 0,
                "warmup_epochs": 0,
                "clip": 1,
            },
            **({"options": {"adjust_lr": "original"}} if optimizer == "muon" else {}),
        },
        engine={"precision": precision, "micro_batch": 8},
    )


def deepspeeds(settings: RunConfig, model: TappedVisionTransformer) -> Any:
    groups = []
    for group in Muon().arranged(parameter_groups(model.vit, lr=RATE, weight_decay=0), model.vit):
        taken = group.pop("matrices") is not None
        for parameter in group["params"]:
            parameter.use_muon = taken
        groups.append({**group, "use_muon": taken})
    return deepspeed.initialize(model=model, optimizer=MuonWithAuxAdam(groups), config=deepspeed_config(settings, 1))[0]


def clipped_step(precision: str, whose: str) -> str:
    """The norm that is reported of a step's gradient, and how far a matrix moves in it."""
    torch.manual_seed(0)
    settings = config(precision, "adamw" if whose == "DeepSpeed" else "muon")
    model = build_model(settings.model, settings.regularizer)
    before = dict(model.vit.named_parameters())[NAME].detach().float().clone()
    ours = whose != "DeepSpeed"
    engine = build_engine(settings, model, world_size=1, steps_per_epoch=100) if ours else deepspeeds(settings, model)
    generator = torch.Generator().manual_seed(0)
    images, labels = torch.randn(8, 3, 32, 32, generator=generator), torch.randint(10, (8,), generator=generator)
    logits = engine(images.to(engine.device, input_dtype(settings)))["logits"]
    engine.backward(functional.cross_entropy(logits.float(), labels.to(engine.device)))
    engine.step()
    moved = (dict(model.vit.named_parameters())[NAME].detach().float().cpu() - before).norm() / RATE
    reported = float(engine.get_global_grad_norm())
    engine.destroy()
    return f"{whose}, {precision}: gradient norm {reported:.2f}, {NAME} moves by {moved:.2f} times the rate"


def update_seconds(name: str, device: torch.device) -> float:
    """Median seconds of an update of ViT-S/16 on one process."""
    model = build_model(
        config("fp32", "adamw").vary({"model.name": "vit_small_patch16_224"}).model, config("fp32", "adamw").regularizer
    )
    settings = optimizer_of(OptimSettings(name=name))
    groups = parameter_groups(model.to(device).vit, lr=RATE, weight_decay=0.05)
    optimizer = settings.build(settings.arranged(groups, model.vit), RATE)
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    seconds = []
    for _ in range(7):
        start = time.perf_counter()
        optimizer.step()
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[2:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    device = torch.device(parser.parse_args().device)
    distributed.initialize(device)
    lines = [
        clipped_step(precision, whose)
        for precision in ("fp32", "bf16_parameters")
        for whose in ("DeepSpeed", "this project")
    ]
    seconds = {name: update_seconds(name, device) for name in ("adamw", "muon")}
    distributed.shutdown()
    print("\n".join(lines))
    print(
        f"an update of ViT-S/16: adamw {1e3 * seconds['adamw']:.1f} ms, muon {seconds['muon'] / seconds['adamw']:.1f} times as long"
    )


if __name__ == "__main__":
    main()
