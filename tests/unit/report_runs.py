"""Run directories as the report reads them, with curves that are easy to calculate."""

from __future__ import annotations

import json
from pathlib import Path

from sar_dist.observe.records import append_record

STEPS_PER_EPOCH = 10


def write_run(folder: Path, name: str, weight: float, top1: float = 60.0, steps: int = 40) -> Path:
    """A run directory with training records every 5 steps and a validation every epoch."""
    path = folder / name
    path.mkdir(parents=True)
    (path / "config.json").write_text(json.dumps({"run": {"name": name}, "regularizer": {"weight": weight}}))
    (path / "environment.json").write_text(
        json.dumps([{"world_size": 4, "device": "X", "git_commit": "0123456789abcdef"}])
    )
    for step in range(5, steps + 1, 5):
        values = {"loss_cls": 10 / step, "epoch": step / STEPS_PER_EPOCH, "learning_rate": 1e-3}
        values |= {
            "images_per_second": 100.0 + step,
            "data_wait_share": 0.1,
            "gradient_norm": float(10 ** (step // 10)),
        }
        if weight:
            values |= {"loss_entropy": 1 / step, "components": 3.0, "entropy_weight": weight}
        append_record(path / "metrics.jsonl", step, "train", 0.0, values)
        if step % STEPS_PER_EPOCH == 0:
            values = {
                "top1": top1 * step / steps,
                "top5": 90.0,
                "loss_cls": 9 / step,
                "entropy": 0.5,
                "components": 2.5,
            }
            append_record(path / "metrics.jsonl", step, "val", 0.0, values)
    return path
