"""Run directories as the report reads them, with curves that are easy to calculate."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from written_records import append_details, append_record

STEPS_PER_EPOCH = 10


def write_run(folder: Path, name: str, weight: float, top1: float = 60.0, steps: int = 40) -> Path:
    """A run directory with training records every 5 steps and a validation every epoch."""
    path = folder / name
    path.mkdir(parents=True)
    config = {"run": {"name": name}, "regularizer": {"weight": weight}, "optim": {"global_batch": 64}}
    (path / "config.json").write_text(json.dumps(config))
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


def jpeg(shade: int, side: int = 32) -> bytes:
    """A grey image."""
    out = io.BytesIO()
    Image.new("L", (side, side), shade).convert("RGB").save(out, "JPEG")
    return out.getvalue()


def keep_details(run: Path, steps: Sequence[int], samples: Sequence[int] = (0, 7)) -> None:
    """What training keeps for the report: two heads on a grid of 2 x 3, of which number `step` is one component."""
    figures = run / "figures"
    (figures / "samples").mkdir(parents=True, exist_ok=True)
    for number in (*samples, 3):
        (figures / "samples" / f"{number:08d}.jpg").write_bytes(jpeg(30 * number))
    for place, step in enumerate(steps):
        maps = np.full((len(samples), 2, 6), 4, dtype=np.uint8)
        maps[:, :, place % 6] = 16 * 1 + 15
        record = {
            "samples": list(samples),
            "labels": ["cat", "dog"],
            "predicted": ["dog", "dog"],
            "grid": [2, 3],
            "entropies": [[step / 100, 0.0]] * len(samples),
            "components": [[1, 2]] * len(samples),
            "maps": base64.b64encode(maps.tobytes()).decode(),
        }
        append_details(figures / "attention.jsonl", {"step": step, **record})
        hardest = {
            "name": "cat",
            "images": 8,
            "right": 2,
            "taken_for": [["dog", 5], ["cow", 1]],
            "examples": [[3, "dog"]],
        }
        append_details(figures / "classes.jsonl", {"step": step, "classes": 3, "hardest": [hardest]})
