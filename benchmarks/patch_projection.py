"""The patch embedding as a convolution (timm's) and as a matrix product: forward and backward of each, taking turns.

    python benchmarks/patch_projection.py                                   ViT-B/16, 32 images, float32 and bfloat16
    python benchmarks/patch_projection.py --device cuda --batch 256

The ratio is the median over rounds of linear / convolution; on a CPU of the process's CPU time, on a GPU of the clock.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import torch
from timm.layers import PatchEmbed

from sar_dist.models import project_linearly

KINDS = ("convolution", "linear")


def seconds_of_each(arguments: argparse.Namespace, dtype: torch.dtype) -> dict[str, list[float]]:
    """Seconds of each round."""
    images = torch.randn(arguments.batch, 3, 224, 224, device=arguments.device, dtype=dtype)
    modules = {kind: PatchEmbed(224, arguments.patch, 3, arguments.width) for kind in KINDS}
    project_linearly(modules["linear"])
    times: dict[str, list[float]] = {kind: [] for kind in KINDS}
    clock = time.perf_counter if arguments.device == "cuda" else time.process_time
    for module in modules.values():
        module.to(arguments.device, dtype)
    for turn in range(arguments.rounds + 2):
        for kind in KINDS if turn % 2 else KINDS[::-1]:
            began = clock()
            modules[kind](images).sum().backward()
            if arguments.device == "cuda":
                torch.cuda.synchronize()
            if turn >= 2:
                times[kind].append(clock() - began)
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--patch", type=int, default=16)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    result = {}
    for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        times = seconds_of_each(arguments, dtype)
        ratios = [a / b for a, b in zip(times["linear"], times["convolution"], strict=True)]
        result[name] = {kind: statistics.median(values) for kind, values in times.items()} | {
            "ratio": statistics.median(ratios)
        }
    print(json.dumps(result, indent=2))
    if arguments.out is not None:
        arguments.out.write_text(json.dumps(result))


if __name__ == "__main__":
    main()
