"""Cost of our engine: training steps through DeepSpeed against a bare PyTorch loop and a loop like timm's train.py.

    python benchmarks/train_step.py                                     ViT-S/16, CPU, float32 and bfloat16 autocast
    python benchmarks/train_step.py --model vit_large_patch16_224 --batch 128 --precision bf16 bf16_parameters \\
        --compile both --out step.json                                  GPU

All sides train the same tapped model from the same weights on the same uint8 batch in memory, normalisation and spatial
entropy included, and take turns within one process, so that a change of load hits all of them. "ours" is the trainer's
own ``train_step`` and, every 50 steps, its ``log_metrics``. "engine" is the same without the trainer. With
``bf16_parameters`` the bare loop keeps float32 weights too; the loop like timm's does not, as timm does.
Times are of blocks of steps; the device is waited for only before and after a block, for else what makes the host wait
within a step would not be seen. Ratios are medians over rounds of side / bare loop. On a CPU the process's CPU time is the
better figure on a shared machine; gradients are clipped on every side, as our engine always computes their norm.
"""

from __future__ import annotations

import argparse
import gc
import json
import platform
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from step_sides import SIDES, Loops, Step, run_config

from sar_dist import distributed
from sar_dist.config import ImageSize
from sar_dist.devices import select_device
from sar_dist.models import TappedVisionTransformer
from sar_dist.observe import find_peak, vit_forward_macs

WARM_UP_ROUNDS = 2


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def measure_rounds(
    sides: dict[str, Step], device: torch.device, rounds: int, block: int
) -> dict[str, dict[str, list[float]]]:
    """Wall and CPU seconds of a step of each side in each round, as the mean of a block of steps.

    The sides take turns, and every round begins with another.
    """
    times: dict[str, dict[str, list[float]]] = {name: {"wall": [], "cpu": []} for name in sides}
    order = list(sides)
    for turn in range(rounds + WARM_UP_ROUNDS):
        for name in order:
            synchronize(device)
            wall, cpu = time.perf_counter(), time.process_time()
            for _ in range(block):
                sides[name]()
            synchronize(device)
            if turn >= WARM_UP_ROUNDS:
                times[name]["wall"].append((time.perf_counter() - wall) / block)
                times[name]["cpu"].append((time.process_time() - cpu) / block)
        order = order[1:] + order[:1]
    return times


def peak_of(step: Step, held: int, device: torch.device) -> float:
    """GiB at the peak of a step: on a GPU with what the side holds, on a CPU beyond what was there before."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        return (held + torch.cuda.max_memory_allocated() - before) / 1024**3
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        step()
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    level = highest = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        level += event.nbytes()
        highest = max(highest, level)
    return highest / 1024**3


def held_bytes(device: torch.device) -> int:
    return torch.cuda.memory_allocated() if device.type == "cuda" else 0


def measure(arguments: argparse.Namespace, precision: str, compiled: bool, device: torch.device) -> dict[str, Any]:
    """All sides in one setting."""
    config = run_config(arguments, precision, compiled)
    loops = Loops(config, device)
    sides: dict[str, Step] = {}
    held: dict[str, int] = {}
    for name in arguments.sides:
        before = held_bytes(device)
        sides[name] = loops.make(name)
        sides[name]()  # makes the optimizer's state, and compiles
        held[name] = held_bytes(device) - before
    if {"engine", "ours"} <= held.keys():
        held["ours"] += held["engine"]
    times = measure_rounds(sides, device, arguments.rounds, arguments.block)
    peaks = {name: peak_of(step, held[name], device) for name, step in sides.items()}
    peak = find_peak(device)
    loops.close()
    images = config.optim.global_batch
    return {
        "model": arguments.model,
        "precision": precision,
        "compiled": compiled,
        "micro_batch": arguments.batch,
        "micro_batches": arguments.micro_batches,
        "block": arguments.block,
        "rounds": arguments.rounds,
        "peak": str(peak),
        "sides": summarize(times, peaks, images, 6 * forward_macs(loops.model, config.model.image_size), peak.flops),
    }


def forward_macs(model: TappedVisionTransformer, image_size: ImageSize) -> float:
    """Multiply-accumulates of the forward pass on one image."""
    vit = model.vit
    return vit_forward_macs(
        image_size=image_size,
        patch_size=vit.patch_embed.patch_size[0],
        embed_dim=vit.embed_dim,
        depth=len(vit.blocks),
        num_classes=vit.num_classes,
        prefix_tokens=vit.num_prefix_tokens,
    )


def summarize(
    times: dict[str, dict[str, list[float]]],
    peaks: dict[str, float],
    images: int,
    flops_per_image: float,
    peak: float | None,
) -> dict[str, dict[str, Any]]:
    """Median and least seconds, ratios to the bare loop round by round, images and GFLOP per second, MFU, memory."""
    rows = {}
    for name, clocks in times.items():
        row: dict[str, Any] = {"peak_gib": peaks[name]}
        for clock, values in clocks.items():
            bare = times["bare loop"][clock]
            row[f"{clock}_seconds"] = statistics.median(values)
            row[f"{clock}_ratio"] = statistics.median(a / b for a, b in zip(values, bare, strict=True))
            row[f"{clock}_least_ratio"] = min(values) / min(bare)
        row["images_per_second"] = images / row["wall_seconds"]
        row["gflops_per_second"] = row["images_per_second"] * flops_per_image / 1e9
        row["mfu"] = None if peak is None else row["images_per_second"] * flops_per_image / peak
        rows[name] = row
    return rows


def print_result(console: Console, result: dict[str, Any]) -> None:
    mode = f"{result['precision']}, {'compiled' if result['compiled'] else 'eager'}"
    if "error" in result:
        console.print(f"{mode}: {result['error']}", markup=False)
        return
    title = f"{mode}: ratios to the bare loop; {result['peak']}"
    table = Table(title=title, title_justify="left")
    columns = ("side", "wall ms", "CPU ms", "wall ratio", "CPU ratio", "least CPU ratio", "img/s", "MFU", "peak GiB")
    for column in columns:
        table.add_column(column, justify="left" if column == "side" else "right", no_wrap=True)
    for name, row in result["sides"].items():
        table.add_row(
            name,
            f"{1e3 * row['wall_seconds']:.1f}",
            f"{1e3 * row['cpu_seconds']:.1f}",
            f"{row['wall_ratio']:.3f}",
            f"{row['cpu_ratio']:.3f}",
            f"{row['cpu_least_ratio']:.3f}",
            f"{row['images_per_second']:.1f}",
            "no peak known" if row["mfu"] is None else f"{row['mfu']:.1%}",
            f"{row['peak_gib']:.2f}",
        )
    console.print(table)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="vit_small_patch16_224")
    parser.add_argument("--model-options", default="{}", help='timm arguments as JSON, such as {"depth": 4}')
    parser.add_argument("--batch", type=int, default=8, help="images in a micro-batch")
    parser.add_argument("--micro-batches", type=int, default=1, help="micro-batches in a step")
    parser.add_argument("--precision", nargs="+", default=["fp32", "bf16"], choices=("fp32", "bf16", "bf16_parameters"))
    parser.add_argument("--compile", choices=("no", "yes", "both"), default="no", help="torch.compile each block")
    parser.add_argument("--sides", nargs="+", default=list(SIDES), choices=SIDES)
    parser.add_argument("--zero-stage", type=int, default=1, choices=(1, 2, 3))
    parser.add_argument("--deepspeed", default="{}", help="engine.deepspeed as JSON, to compare DeepSpeed's settings")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--block", type=int, help="steps in a timed block (default: 10 on a GPU, 1 on a CPU)")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no other setting after this time")
    parser.add_argument("--threads", type=int, default=1, help="PyTorch threads on a CPU")
    parser.add_argument("--out", type=Path, help="JSON file to write, after each setting")
    arguments = parser.parse_args()
    if "bare loop" not in arguments.sides:
        parser.error('--sides needs "bare loop", to which the others are compared')
    return arguments


def main() -> int:
    start, arguments = time.perf_counter(), parse_arguments()
    torch.set_num_threads(arguments.threads)
    device = select_device(0)
    arguments.block = arguments.block or (10 if device.type == "cuda" else 1)
    distributed.initialize(device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    console = Console(width=None if sys.stdout.isatty() else 160)
    console.print(f"{name}, torch {torch.__version__}, {arguments.model}, batch {arguments.batch}", highlight=False)
    report = {"device": name, "torch": torch.__version__, "command": " ".join(sys.argv), "results": []}
    # Autocast last: DeepSpeed's switch stays on for the rest of the process.
    precisions = sorted(arguments.precision, key=lambda precision: precision == "bf16")
    modes = {"no": (False,), "yes": (True,), "both": (False, True)}[arguments.compile]
    for precision, compiled in ((precision, compiled) for precision in precisions for compiled in modes):
        setting = {"model": arguments.model, "precision": precision, "compiled": compiled}
        try:
            if time.perf_counter() - start > arguments.seconds:
                raise RuntimeError(f"not begun: --seconds {arguments.seconds:g} had passed")
            result = measure(arguments, precision, compiled, device)
        except RuntimeError as error:  # out of memory, the compiler: the other settings are measured all the same
            result = {**setting, "error": f"{type(error).__name__}: {error}"[:500]}
        report["results"].append(result)
        print_result(console, result)
        if arguments.out:
            arguments.out.write_text(json.dumps(report, indent=2) + "\n")
        torch.compiler.reset()
        gc.collect()
    distributed.shutdown()
    return 1 if any("error" in result for result in report["results"]) else 0


if __name__ == "__main__":
    sys.exit(main())
