"""Cost of our engine: one training step through DeepSpeed against a bare PyTorch loop and a loop like timm's train.py.

    python benchmarks/train_step.py                                     ViT-S/16, CPU, float32 and bfloat16 autocast
    python benchmarks/train_step.py --model vit_large_patch16_224 --batch 128 --precision bf16 --out step.json     GPU

All sides train the same tapped model from the same weights on the same uint8 batch in memory, normalisation and spatial
entropy included, and take turns within one process, so that a change of load hits all of them. "ours" is the trainer's
own ``train_step`` and, every 50 steps, its ``log_metrics``. "engine" is the same without the trainer.
Ratios are medians over rounds of side / bare loop. On a CPU the process's CPU time is the better figure on a shared
machine; gradients are clipped on every side, as our engine always computes their norm.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from timm.utils import AverageMeter, dispatch_clip_grad

from sar_dist import distributed
from sar_dist.checkpoint import CheckpointStore
from sar_dist.config import RunConfig
from sar_dist.devices import select_device
from sar_dist.engine import build_engine
from sar_dist.models import TappedVisionTransformer, build_model, parameter_groups
from sar_dist.observe import RunLogger, Throughput, find_peak, peak_memory_gib, vit_forward_macs
from sar_dist.training import (
    Checkpointing,
    ClassificationTask,
    RunDirectory,
    RunLength,
    RunningAverages,
    Trainer,
    TrainState,
)

CLIP = 1.0
STEPS_PER_EPOCH = 1000
LOG_EVERY = 50  # timm's --log-interval and our log.every: when losses are read back
Step = Callable[[], None]


def run_config(arguments: argparse.Namespace, precision: str) -> RunConfig:
    """A run of one process that takes the whole batch at once."""
    return RunConfig(
        run={"name": "benchmark"},
        model={"name": arguments.model, "no_skip_last_block": True, "options": json.loads(arguments.model_options)},
        optim={"global_batch": arguments.batch, "clip": CLIP, "lr": 1e-4, "lr_reference_batch": None},
        engine={
            "precision": precision,
            "micro_batch": arguments.batch,
            "zero_stage": arguments.zero_stage,
            "deepspeed": json.loads(arguments.deepspeed),
        },
    )


def fixed_batch(config: RunConfig) -> dict[str, Any]:
    """A micro-batch as the loader yields it, random pixels."""
    batch, size = config.engine.micro_batch, config.model.image_size
    generator = torch.Generator().manual_seed(0)
    number = torch.arange(batch)
    return {
        "image": torch.randint(0, 256, (batch, 3, size, size), dtype=torch.uint8, generator=generator),
        "label": torch.randint(0, config.model.num_classes, (batch,), generator=generator),
        "epoch": torch.zeros_like(number),
        "sample": number,
        "position": number,
        "bad": 0,
        "bad_keys": [],
    }


def optimizer_of(config: RunConfig, model: TappedVisionTransformer, device: torch.device) -> torch.optim.AdamW:
    """The optimizer that ``build_engine`` makes."""
    optim = config.optim
    groups = parameter_groups(model.vit, lr=optim.peak_lr, weight_decay=optim.weight_decay)
    return torch.optim.AdamW(groups, lr=optim.peak_lr, betas=optim.betas, eps=optim.eps, fused=optim.fused)


def bare_step(config: RunConfig, model: TappedVisionTransformer, task: ClassificationTask, batch: Any) -> Step:
    """The shortest loop that does the same: autocast, loss, backward, clipping, AdamW."""
    optimizer = optimizer_of(config, model, task.device)
    autocast = config.engine.precision == "bf16"

    def forward(images: torch.Tensor) -> Any:
        with torch.autocast(task.device.type, torch.bfloat16, enabled=autocast):
            return model(images)

    def step() -> None:
        task.losses(forward, batch, 0.0)["loss"].backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        optimizer.zero_grad()

    return step


def timm_step(config: RunConfig, model: TappedVisionTransformer, task: ClassificationTask, batch: Any) -> Step:
    """A step in the order and with the helpers of timm's train.py: meters, update dispatch, per-update schedule."""
    optimizer = optimizer_of(config, model, task.device)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 1.0)
    losses, update_time = AverageMeter(), AverageMeter()
    autocast = config.engine.precision == "bf16"
    updates = 0

    def forward(images: torch.Tensor) -> Any:
        with torch.autocast(task.device.type, torch.bfloat16, enabled=autocast):
            return model(images)

    def step() -> None:
        nonlocal updates
        start = time.time()
        loss = task.losses(forward, batch, 0.0)["loss"]
        loss.backward()
        dispatch_clip_grad(model.parameters(), value=CLIP, mode="norm")
        optimizer.step()
        optimizer.zero_grad()
        updates += 1
        if task.device.type == "cuda":
            torch.cuda.synchronize()  # as train.py does after each update
        update_time.update(time.time() - start)
        if updates % LOG_EVERY == 0:
            losses.update(loss.item(), len(batch["label"]))
        scheduler.step()

    return step


def engine_step(engine: Any, task: ClassificationTask, batch: Any) -> Step:
    """DeepSpeed's engine and our task, without the trainer."""

    def step() -> None:
        engine.backward(task.losses(engine, batch, 0.0)["loss"])
        engine.step()

    return step


def our_step(config: RunConfig, engine: Any, task: ClassificationTask, batch: Any) -> Step:
    """``Trainer.train_step`` and ``log_metrics`` themselves, in a run that writes nothing and never validates."""
    unused: Any = None  # data and checkpoints, which a step does not touch
    averages = RunningAverages(engine.device)
    throughput = Throughput(config.optim.global_batch, None, engine.device)
    directory = RunDirectory(config)
    logger = RunLogger(directory.path, enabled=False, total_steps=1, description="benchmark")
    store = CheckpointStore(directory.checkpoints, keep_last=1, keep_every=None)
    trainer = Trainer(
        config,
        engine=engine,
        task=task,
        batches=itertools.repeat(batch),
        accumulation=1,
        val_loader=unused,
        length=RunLength(config, STEPS_PER_EPOCH),
        state=TrainState(),
        averages=averages,
        ema=None,
        checkpointing=Checkpointing(store, engine, None, unused, averages, logger.message, {}),
        directory=directory,
        logger=logger,
        throughput=throughput,
    )

    def step() -> None:
        trainer.train_step()
        if trainer.state.step % LOG_EVERY == 0:
            trainer.log_metrics()

    return step


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def measure_rounds(sides: dict[str, Step], device: torch.device, rounds: int) -> dict[str, dict[str, list[float]]]:
    """Wall and CPU seconds of each side in each round; the sides take turns, and every round begins with another."""
    times: dict[str, dict[str, list[float]]] = {name: {"wall": [], "cpu": []} for name in sides}
    order = list(sides)
    for turn in range(rounds + 2):  # two rounds warm up
        for name in order:
            synchronize(device)
            wall, cpu = time.perf_counter(), time.process_time()
            sides[name]()
            synchronize(device)
            if turn >= 2:
                times[name]["wall"].append(time.perf_counter() - wall)
                times[name]["cpu"].append(time.process_time() - cpu)
        order = order[1:] + order[:1]
    return times


def peak_of(step: Step, device: torch.device) -> float:
    """GiB that a step has allocated at its peak: in all on a GPU, beyond what was there before on a CPU."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        step()
        return peak_memory_gib(device)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        step()
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    level = highest = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        level += event.nbytes()
        highest = max(highest, level)
    return highest / 1024**3


def measure(arguments: argparse.Namespace, precision: str, device: torch.device) -> dict[str, Any]:
    """All sides in one precision."""
    config = run_config(arguments, precision)
    torch.manual_seed(0)
    model = build_model(config.model, config.regularizer).to(device)
    models = [copy.deepcopy(model).train() for _ in range(3)]
    batch = {
        name: value.to(device) if isinstance(value, torch.Tensor) else value
        for name, value in fixed_batch(config).items()
    }
    task = ClassificationTask(config, model.grid, device)
    engine = build_engine(config, models[2], world_size=1, steps_per_epoch=STEPS_PER_EPOCH)
    sides = {
        "bare loop": bare_step(config, models[0], task, batch),
        "like timm": timm_step(config, models[1], task, batch),
        "engine": engine_step(engine, task, batch),
        "ours": our_step(config, engine, task, batch),
    }
    times = measure_rounds(sides, device, arguments.rounds)
    peaks = {name: peak_of(step, device) for name, step in sides.items()}
    vit = model.vit
    macs = vit_forward_macs(
        image_size=config.model.image_size,
        patch_size=vit.patch_embed.patch_size[0],
        embed_dim=vit.embed_dim,
        depth=len(vit.blocks),
        num_classes=config.model.num_classes,
        prefix_tokens=vit.num_prefix_tokens,
    )
    peak = find_peak(device)
    engine.destroy()
    sides = summarize(times, peaks, 6 * macs * arguments.batch, peak.flops)
    return {"precision": precision, "peak": str(peak), "sides": sides}


def summarize(
    times: dict[str, dict[str, list[float]]], peaks: dict[str, float], flops: float, peak: float | None
) -> dict[str, dict[str, Any]]:
    """Median and least seconds, ratios to the bare loop round by round, GFLOP/s, MFU, memory."""
    rows = {}
    for name, clocks in times.items():
        row: dict[str, Any] = {"peak_gib": peaks[name]}
        for clock, values in clocks.items():
            bare = times["bare loop"][clock]
            row[f"{clock}_seconds"] = statistics.median(values)
            row[f"{clock}_ratio"] = statistics.median(a / b for a, b in zip(values, bare, strict=True))
            row[f"{clock}_least_ratio"] = min(values) / min(bare)
        row["gflops_per_second"] = flops / row["wall_seconds"] / 1e9
        row["mfu"] = None if peak is None else flops / row["wall_seconds"] / peak
        rows[name] = row
    return rows


def print_result(console: Console, result: dict[str, Any]) -> None:
    title = f"{result['precision']}: ratios to the bare loop; {result['peak']}"
    table = Table(title=title, title_justify="left")
    columns = ("side", "wall ms", "CPU ms", "wall ratio", "CPU ratio", "least CPU ratio", "GFLOP/s", "MFU", "peak GiB")
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
            f"{row['gflops_per_second']:.0f}",
            "no peak known" if row["mfu"] is None else f"{row['mfu']:.1%}",
            f"{row['peak_gib']:.2f}",
        )
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="vit_small_patch16_224")
    parser.add_argument("--model-options", default="{}", help='timm arguments as JSON, such as {"depth": 4}')
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--precision", nargs="+", default=["fp32", "bf16"], choices=("fp32", "bf16"))
    parser.add_argument("--zero-stage", type=int, default=1, choices=(1, 2, 3))
    parser.add_argument("--deepspeed", default="{}", help="engine.deepspeed as JSON, to compare DeepSpeed's settings")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1, help="PyTorch threads on a CPU")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    device = select_device(0)
    distributed.initialize(device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    console = Console(width=None if sys.stdout.isatty() else 160)
    console.print(f"{name}, torch {torch.__version__}, {arguments.model}, batch {arguments.batch}", highlight=False)
    # float32 first: DeepSpeed's autocast switch stays on for the rest of the process.
    results = [measure(arguments, precision, device) for precision in sorted(arguments.precision, reverse=True)]
    for result in results:
        print_result(console, result)
    if arguments.out:
        report = {"device": name, "torch": torch.__version__, "command": " ".join(sys.argv), "results": results}
        arguments.out.write_text(json.dumps(report, indent=2) + "\n")
    distributed.shutdown()


if __name__ == "__main__":
    main()
