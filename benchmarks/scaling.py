"""How a run scales: what the plan calculates for 8 to 1024 GPUs, and what one and two processes on this machine do.

    python benchmarks/scaling.py [--config configs/vit_l_in1k.py] [--measure] [--out FILE.json]

The calculated tables are arithmetic, by the formulas of docs/planning.md and docs/scaling.md; no figure in them was measured
but the loader's images per core. ``--measure`` trains a small ViT with one process and with two, each on one thread, in
turns, and compares images per second: weak scaling, the micro-batch of a process is the same.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from sar_dist.config import RunConfig, load_config
from sar_dist.planning import Machine, collective_payloads, make_plan

ROOT = Path(__file__).resolve().parents[1]
GPUS = (8, 16, 32, 64, 128, 256, 512, 1024)
STATE_BYTES = {"master and moments": 12, "moving average": 4}
MEASURED = (
    "model.options.embed_dim=192", "model.options.depth=6", "model.options.num_heads=3", "run.max_steps=30",
    "checkpoint.every=1000", "validation.every=100ep", "log.every=5", "log.figure_images=0", "data.workers=0",
    "engine.micro_batch=32", "optim.ema=null",
)  # fmt: skip


def fitted(config: RunConfig, gpus: int) -> RunConfig:
    """``config`` with the largest micro-batch, up to its own, that divides the global batch over ``gpus``."""
    per_gpu = config.optim.global_batch // gpus
    micro_batch = next(size for size in range(min(per_gpu, config.engine.micro_batch), 0, -1) if per_gpu % size == 0)
    return config.vary({"engine.micro_batch": micro_batch})


def calculate(config: RunConfig, gpus: int, gpus_per_node: int, storage: float) -> dict[str, Any]:
    """One row: memory, communication, loader and checkpoint of a run on ``gpus`` GPUs."""
    config = fitted(config, gpus)
    machine = Machine(nodes=gpus // gpus_per_node, gpus_per_node=gpus_per_node)
    plan = make_plan(config, machine, 1_281_167)
    stages = {s.zero_stage: s for s in plan.settings if s.offload == "none" and not s.checkpointing}
    state = plan.shape.parameters * sum(STATE_BYTES.values())
    zero3 = collective_payloads(plan.shape, config.vary({"engine.zero_stage": 3}), gpus)
    passes = zero3["all_gather"] / zero3["reduce_scatter"]
    return {
        "gpus": gpus,
        "micro_batch": config.engine.micro_batch,
        "accumulation": plan.batch.accumulation,
        "peak_gib": {stage: setting.memory.peak / 2**30 for stage, setting in stages.items()},
        "sent_gb": {stage: setting.communication.total / 1e9 for stage, setting in stages.items()},
        "sent_share": {stage: s.communication.seconds / plan.cost.step_seconds for stage, s in stages.items()},
        # ZeRO++'s secondary partition inside a node: only the first gather of a pass leaves it.
        "zero3_gathers_leaving_a_node": {"plain": passes, "hpz": min(1.0, passes)},
        "hpz_extra_gib": 4 * plan.shape.parameters / gpus_per_node / 2**30,
        "step_seconds": plan.cost.step_seconds,
        "hours": plan.cost.hours,
        "loader_cores_per_node": plan.loader.cores_per_node,
        "checkpoint_gb_per_process": state / gpus / 1e9,
        "checkpoint_write_seconds": state / 1e9 / storage,
    }


def table_of(rows: list[dict[str, Any]], config: RunConfig, storage: float) -> Table:
    """The calculated rows for reading."""
    table = Table(
        title=f"{config.run.name}, global batch {config.optim.global_batch}: CALCULATED, nodes of 8 H100, MFU 40 %"
    )
    names = (
        "GPUs", "micro-batch x accumulation", "peak GiB ZeRO 1 / 2 / 3", "GB sent a step 1 / 2 / 3",
        "sending / step, % 1 / 2 / 3", "step ms", "hours", "loader cores a node", "checkpoint MB a process",
        f"write s at {storage:g} GB/s",
    )  # fmt: skip
    for name in names:
        table.add_column(name, justify="right")
    for row in rows:
        stages = [[row[key][stage] for stage in (1, 2, 3)] for key in ("peak_gib", "sent_gb", "sent_share")]
        table.add_row(
            str(row["gpus"]),
            f"{row['micro_batch']} x {row['accumulation']}",
            " / ".join(f"{value:.1f}" for value in stages[0]),
            " / ".join(f"{value:.2f}" for value in stages[1]),
            " / ".join(f"{100 * value:.1f}" for value in stages[2]),
            f"{1000 * row['step_seconds']:.0f}",
            f"{row['hours']:.1f}",
            f"{row['loader_cores_per_node']:.0f}",
            f"{1000 * row['checkpoint_gb_per_process']:.0f}",
            f"{row['checkpoint_write_seconds']:.1f}",
        )
    return table


def images_per_second(processes: int, stage: int, data: Path, folder: Path) -> float:
    """Median over the logging intervals of a short run, the first one left out."""
    name = f"p{processes}z{stage}n{len(list(folder.glob('p*')))}"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}
    launcher = ["deepspeed", "--num_accelerators", str(processes), "tools/train.py"]
    overrides = [
        f"run.name={name}", f"run.dir={folder}", f"data.train={data}", f"data.val={data}",
        f"engine.zero_stage={stage}", f"optim.global_batch={32 * processes}", *MEASURED,
    ]  # fmt: skip
    done = subprocess.run(
        [*launcher, "--config", "configs/demo.py", *overrides],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(done.stdout[-3000:] + done.stderr[-3000:])
    lines = [json.loads(line) for line in (folder / name / "metrics.jsonl").read_text().splitlines()]
    rates = [line["images_per_second"] for line in lines if line["prefix"] == "train"]
    return statistics.median(rates[1:])


def measure(rounds: int) -> dict[str, Any]:
    """Images per second of one and of two processes for each ZeRO stage, in turns, and the efficiency of the second."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        make = ["tools/make_shards.py", "demo", str(folder / "data"), "--train", "2000", "--val", "64"]
        subprocess.run([sys.executable, *make], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        rates: dict[str, list[float]] = {}
        for _ in range(rounds):
            for stage in (1, 2, 3):
                for processes in (1, 2):
                    rate = images_per_second(processes, stage, folder / "data", folder)
                    rates.setdefault(f"ZeRO {stage}, {processes}", []).append(rate)
    return {
        f"ZeRO {stage}": {
            "one": rates[f"ZeRO {stage}, 1"],
            "two": rates[f"ZeRO {stage}, 2"],
            "efficiency": statistics.median(
                two / (2 * one) for one, two in zip(rates[f"ZeRO {stage}, 1"], rates[f"ZeRO {stage}, 2"], strict=True)
            ),
        }
        for stage in (1, 2, 3)
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="configs/vit_l_in1k.py")
    parser.add_argument("--storage-gb-per-second", type=float, default=2.0, help="of the shared file system; assumed")
    parser.add_argument("--measure", action="store_true", help="also train with one and two processes on this machine")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, help="write everything as JSON")
    arguments = parser.parse_args()
    config = load_config(ROOT / arguments.config)
    rows = [calculate(config, gpus, 8, arguments.storage_gb_per_second) for gpus in GPUS]
    console = Console(width=200)
    console.print(table_of(rows, config, arguments.storage_gb_per_second))
    result: dict[str, Any] = {"calculated": rows}
    if arguments.measure:
        result["measured"] = measure(arguments.rounds)
        for name, values in result["measured"].items():
            one, two = statistics.median(values["one"]), statistics.median(values["two"])
            console.print(
                f"{name}: {one:.1f} images/s with one process, {two:.1f} with two, efficiency {values['efficiency']:.2f}"
            )
    if arguments.out:
        arguments.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
