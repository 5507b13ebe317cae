"""Stochastic depth that does not compute what it drops, against masking it: a training step of each, taking turns.

    python benchmarks/skip_dropped.py                           ViT-L/16, drop path .2, 16 images, bfloat16 autocast
    python benchmarks/skip_dropped.py --device cuda --batch 256 --rounds 20

Both sides train the same regularized model from the same weights on the same images, with fused AdamW. The ratio is the
median over rounds of skipping / masking; on a CPU of the process's CPU time, on a GPU of the time on the clock.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch.nn import functional

from sar_dist.config import ModelSettings, RegularizerSettings
from sar_dist.models import build_model, parameter_groups
from sar_dist.regularizer import spatial_entropy_from_query_key

SIDES = ("masking", "skipping")
ENTROPY_WEIGHT = 0.01


def make_step(arguments: argparse.Namespace, *, skip: bool) -> tuple[Callable[[int], None], float]:
    """A training step by its number, and the mean share of the blocks that it computes."""
    settings = ModelSettings(
        name=arguments.model,
        drop_path=arguments.drop_path,
        skip_dropped=skip,
        no_skip_last_block=True,
        options=json.loads(arguments.model_options),
    )
    torch.manual_seed(0)
    model = build_model(settings, RegularizerSettings()).to(arguments.device).train()
    groups = parameter_groups(model.vit, lr=1e-4, weight_decay=0.05)
    optimizer = torch.optim.AdamW(copy.copy(groups), fused=True)
    images = torch.randn(arguments.batch, 3, 224, 224, device=arguments.device)
    labels = torch.zeros(arguments.batch, dtype=torch.long, device=arguments.device)
    samples = torch.arange(arguments.batch, device=arguments.device)

    def step(number: int) -> None:
        with torch.autocast(arguments.device, torch.bfloat16, enabled=arguments.precision == "bf16"):
            output = model(images, (torch.full_like(samples, number), samples))
        entropy = spatial_entropy_from_query_key(output["queries"][0], output["keys"][0], model.grid)
        loss = functional.cross_entropy(output["logits"].float(), labels) + ENTROPY_WEIGHT * entropy.mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if arguments.device == "cuda":
            torch.cuda.synchronize()

    return step, statistics.fmean(model.computed_shares(arguments.batch))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="vit_large_patch16_224")
    parser.add_argument("--model-options", default="{}", help='timm arguments as JSON, such as {"depth": 4}')
    parser.add_argument("--drop-path", type=float, default=0.2)
    parser.add_argument("--batch", type=int, default=16, help="images in the micro-batch")
    parser.add_argument("--precision", choices=("bf16", "fp32"), default="bf16")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    clock = time.perf_counter if arguments.device == "cuda" else time.process_time
    made = {name: make_step(arguments, skip=name == "skipping") for name in SIDES}
    times: dict[str, list[float]] = {name: [] for name in SIDES}
    for turn in range(1 + arguments.rounds):
        for name in SIDES if turn % 2 else SIDES[::-1]:
            began = clock()
            made[name][0](turn)
            if turn:  # the first makes the optimizer's state
                times[name].append(clock() - began)
    ratio = statistics.median(a / b for a, b in zip(times["skipping"], times["masking"], strict=True))
    result = {
        "seconds": {name: statistics.median(values) for name, values in times.items()},
        "ratio": ratio,
        "least_ratio": min(times["skipping"]) / min(times["masking"]),
        "computed_share_of_blocks": made["skipping"][1],
    }
    print(json.dumps(result, indent=2))
    if arguments.out is not None:
        arguments.out.write_text(json.dumps(result))


if __name__ == "__main__":
    main()
