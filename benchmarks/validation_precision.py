"""Images per second of validation in each precision of training, and how far its scores are from float32's.

    python benchmarks/validation_precision.py --model vit_base_patch16_224 --batch 256        on a GPU if there is one

One model, one batch of random pixels in memory, ``ClassificationTask.predict`` and the terms' measures, as a validation
does them. Each time is of a block of batches; the device is waited for only around a block, and the precisions take turns.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from sar_dist.config import RunConfig, height_and_width
from sar_dist.devices import select_device
from sar_dist.engine import input_dtype
from sar_dist.models import build_model
from sar_dist.training import ClassificationTask

PRECISIONS = ("fp32", "bf16", "bf16_parameters")


def run_config(arguments: argparse.Namespace, precision: str) -> RunConfig:
    """A run of this model and precision."""
    return RunConfig(
        run={"name": "benchmark"},
        model={"name": arguments.model, "no_skip_last_block": True, "options": json.loads(arguments.model_options)},
        engine={"precision": precision},
    )


def scorer(arguments: argparse.Namespace, precision: str, device: torch.device) -> Callable[[], torch.Tensor]:
    """What validation does with a batch; gives the logits (batch, classes) in float32."""
    config = run_config(arguments, precision)
    torch.manual_seed(0)
    model = build_model(config.model, config.regularizer).eval().to(device, input_dtype(config))
    task = ClassificationTask(config, model.grid, device)
    size, generator = height_and_width(config.model.image_size), torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (arguments.batch, 3, *size), dtype=torch.uint8, generator=generator)
    batch = {"image": images.to(device)}

    @torch.no_grad()
    def score() -> torch.Tensor:
        output = task.predict(model, batch)
        task.per_sample(output)
        return output["logits"].float()

    return score


def measure(arguments: argparse.Namespace, device: torch.device) -> list[dict[str, Any]]:
    """Each precision's speed, and its logits against those of float32."""
    scorers = {precision: scorer(arguments, precision, device) for precision in PRECISIONS}
    logits = {precision: score() for precision, score in scorers.items()}
    times: dict[str, list[float]] = {precision: [] for precision in PRECISIONS}
    for _ in range(arguments.rounds):
        for precision, score in scorers.items():
            _synchronize(device)
            start = time.perf_counter()
            for _ in range(arguments.block):
                score()
            _synchronize(device)
            times[precision].append((time.perf_counter() - start) / arguments.block)
    exact = logits["fp32"]
    return [
        {
            "precision": precision,
            "images_per_second": arguments.batch / statistics.median(values),
            "times_fp32": statistics.median(a / b for a, b in zip(times["fp32"], values, strict=True)),
            "largest_difference": (logits[precision] - exact).abs().max().item(),
            "same_class": (logits[precision].argmax(1) == exact.argmax(1)).float().mean().item(),
        }
        for precision, values in times.items()
    ]


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def print_results(results: list[dict[str, Any]]) -> None:
    table = Table(title="validation")
    for column in ("precision", "img/s", "times float32", "largest |logit - float32|", "same class as float32"):
        table.add_column(column, justify="right")
    for result in results:
        table.add_row(
            result["precision"],
            f"{result['images_per_second']:.1f}",
            f"{result['times_fp32']:.2f}",
            f"{result['largest_difference']:.2g}",
            f"{result['same_class']:.1%}",
        )
    Console(width=None if sys.stdout.isatty() else 120).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="vit_base_patch16_224")
    parser.add_argument("--model-options", default="{}", help='timm arguments as JSON, such as {"depth": 4}')
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--block", type=int, default=10, help="batches in a timed block")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    arguments = parser.parse_args()
    results = measure(arguments, select_device(0))
    print_results(results)
    if arguments.out:
        arguments.out.write_text(json.dumps({"command": " ".join(sys.argv), "results": results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
