"""How long training stands still for a checkpoint, how long writing one takes, and how long resuming takes.

    python benchmarks/checkpoint.py [--config configs/vit_l_in1k.py] [--dir FOLDER] [--out FILE.json]

Also under `deepspeed --num_accelerators N`: each process then holds its share. The state is that of a run with AdamW and a
moving average; its values do not matter. The first figure is what a training loop waits for: the copy to host memory.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from sar_dist import distributed
from sar_dist.checkpoint import CheckpointReader, CheckpointStore, SharedState, read_manifest, step_name, verify
from sar_dist.config import load_config
from sar_dist.devices import select_device
from sar_dist.engine import ExponentialMovingAverage, build_engine, restore, shared_state, snapshot
from sar_dist.models import build_model
from sar_dist.program import run_tool


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="configs/vit_l_in1k.py")
    parser.add_argument("--dir", type=Path, default=Path(tempfile.gettempdir()), help="disk to write to")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--local_rank", type=int, help=argparse.SUPPRESS)
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    arguments = parser.parse_args()

    _, local_rank, world_size = distributed.read_environment()
    device = select_device(local_rank)
    distributed.initialize(device)
    config = load_config(
        arguments.config, [*arguments.overrides, "engine.micro_batch=1", f"optim.global_batch={world_size}"]
    )
    model = build_model(config.model, config.regularizer)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    engine = build_engine(config, model, world_size=world_size, steps_per_epoch=1)
    ema = ExponentialMovingAverage(engine, 0.999)
    root = arguments.dir / "sar_dist_checkpoint_benchmark"
    store = CheckpointStore(root, keep_last=1, keep_every=None)
    store.prepare()

    times: dict[str, list[float]] = {}
    for round_ in range(arguments.rounds):
        measure(times, engine, ema, store, step=round_ + 1)
    total = sum(path.stat().st_size for path in (root / step_name(arguments.rounds)).iterdir())
    distributed.barrier()
    if distributed.is_main():
        report(times, parameters, total, world_size, arguments.out)
        shutil.rmtree(root)
    distributed.shutdown()


def measure(
    times: dict[str, list[float]], engine: object, ema: ExponentialMovingAverage, store: CheckpointStore, step: int
) -> None:
    """One save and one resume, each part timed."""

    def timed(name: str, action: Callable[[], object]) -> object:
        distributed.barrier()
        start = time.perf_counter()
        result = action()
        times.setdefault(name, []).append(time.perf_counter() - start)
        return result

    copies, index = timed("stall: copy to host memory", lambda: snapshot(engine, ema))  # type: ignore[misc]
    store.save(step, copies, index, SharedState(engine=shared_state(engine, ema)))
    timed("write, fsync, hash, commit (background)", store.wait)
    del copies
    problem = store.take_problem()
    if problem is not None:
        raise RuntimeError(problem)
    folder = store.root / step_name(step)
    distributed.barrier()
    timed("verify every byte", lambda: verify(folder))
    manifest = read_manifest(folder)
    timed("restore into the engine", lambda: restore(engine, ema, CheckpointReader(folder, manifest)))


def report(times: dict[str, list[float]], parameters: int, total: int, world_size: int, out: Path | None) -> None:
    """Print a table of medians and ranges, and write them as JSON."""
    plural = "es" if world_size > 1 else ""
    table = Table(
        "part",
        "median s",
        "min s",
        "max s",
        title=f"{parameters / 1e6:.0f} M parameters, {total / 1e9:.2f} GB, {world_size} process{plural}",
    )
    rows = {}
    for name, seconds in times.items():
        ordered = sorted(seconds)
        rows[name] = {"median": ordered[len(ordered) // 2], "min": ordered[0], "max": ordered[-1]}
        table.add_row(name, *(f"{rows[name][key]:.2f}" for key in ("median", "min", "max")))
    Console().print(table)
    if out is not None:
        device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
        out.write_text(
            json.dumps(
                {"parameters": parameters, "bytes": total, "world_size": world_size, "device": device, "seconds": rows},
                indent=2,
            )
        )


if __name__ == "__main__":
    run_tool(main)
