"""What augmentation on the device takes off the workers, and what it costs there, counted without a GPU.

    python benchmarks/device_augmentation.py                      generated images
    python benchmarks/device_augmentation.py --images DIR         the JPEGs under DIR

First CPU time a worker spends on an image, from JPEG bytes to its place in a batch, with augment.where=worker and =device:
the same images with the same draws, in turns in one process, decoded anew each time. Then what the device does instead:
kernels that torch.compile makes of it and bytes that they read and write, for a batch drawn by each recipe; and the
share of a training step of ViT-B/16 that these bytes take on an H100 at the bandwidth of its memory. Kernels and bytes are
those of the code that Inductor makes for an H100 (gpu_code.py); how long they take there is for a GPU to say. Last
the CPU time that the training process spends on starting a batch's kernels, compiled and as they are: the whole
augmentation of images of 4 x 4 pixels, which compute next to nothing.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal

import cv2
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from jpegs import read_jpegs

from benchmarks.gpu_code import count_kernels
from sar_dist.config import AugmentSettings, ModelSettings, RunConfig, RunSettings
from sar_dist.data.images import (
    DevicePlan,
    DeviceTransform,
    DrawnOperation,
    build_operation_draw,
    build_train_transform,
    canvas_of,
    make_plan,
)
from sar_dist.data.images import device_operations as operations
from sar_dist.data.images.device_plan import AMOUNTS, Family
from sar_dist.models import model_on_meta
from sar_dist.observe import count_flops
from sar_dist.randomness import seed_generators

SIZE, BATCH, MAX_PIXELS = 224, 256, 10**8
H100_BYTES_PER_SECOND, H100_FLOPS, MFU = 3.35e12, 989e12, 0.6
COUNTED = 16  # images with which a function is counted
WHERE: tuple[Literal["worker", "device"], ...] = ("worker", "device")
RECIPES: dict[str, dict[str, Any]] = {
    "crop + flip": {},
    "RandAugment m9": {"rand_augment": "rand-m9-mstd0.5-inc1"},
    "3-Augment + jitter 0.3": {"three_augment": True, "color_jitter": 0.3},
}
FINISH = {"mixup": 0.8, "cutmix": 1.0, "random_erasing": 0.25, "label_smoothing": 0.1}


def worker_side(settings: AugmentSettings) -> Callable[[list[bytes], int], object]:
    """What a worker does to make a batch of the given files, in the given epoch."""
    transform = build_train_transform(settings, SIZE, MAX_PIXELS)
    draw, canvas = build_operation_draw(settings, SIZE), canvas_of(settings)

    def batch(files: list[bytes], epoch: int) -> object:
        images, drawn = [], []
        for number, data in enumerate(files):
            seed_generators(epoch, number)
            images.append(transform(data))
            if settings.where == "device":
                drawn.append(draw())
        plan = make_plan(drawn, SIZE, canvas) if drawn else None
        return torch.stack(images), plan

    return batch


def compare_workers(files: list[bytes], rounds: int) -> dict[str, dict[str, float]]:
    """CPU microseconds an image: median over the rounds, and of the ratios within a round."""
    results = {}
    for name, recipe in RECIPES.items():
        sides = {where: worker_side(AugmentSettings(where=where, **recipe)) for where in WHERE}
        times: dict[str, list[float]] = {where: [] for where in WHERE}
        for turn in range(rounds + 1):
            for where in WHERE if turn % 2 else WHERE[::-1]:
                start = time.process_time()
                sides[where](files, turn)
                times[where].append((time.process_time() - start) / len(files) * 1e6)
        worker, device = (times[where][1:] for where in WHERE)  # the first round warms up
        results[name] = {
            "worker_us": statistics.median(worker),
            "device_us": statistics.median(device),
            "ratio": statistics.median(one / other for one, other in zip(worker, device, strict=True)),
        }
    return results


def count_functions() -> dict[str, tuple[int, float]]:
    """Kernels of each of the device's functions, and bytes an image."""
    count, index = COUNTED, torch.arange(COUNTED)
    images = torch.zeros(count, 3, SIZE, SIZE, dtype=torch.uint8)
    numbers = torch.ones(count, AMOUNTS, dtype=torch.float64)
    fill, tables = torch.zeros(3, dtype=torch.uint8), torch.zeros(count, 3, 256, dtype=torch.uint8)
    finish = DeviceTransform(AugmentSettings(**FINISH), 1000, 0)
    constants = finish._constants_on(images)

    def finished(*tensors: Tensor) -> tuple[Tensor, Tensor]:
        return finish._finished(*tensors[:5], dict(zip(constants, tensors[5:], strict=True)))  # type: ignore[call-arg, arg-type]

    calls: dict[str, tuple[Callable[..., Any], tuple[Tensor, ...]]] = {
        "flip": (operations.flip, (torch.ones(count, dtype=torch.uint8),)),
        "look up": (operations.look_up, (index, tables)),
        Family.CONTRAST.name: (operations.contrast_tables, (index, numbers[:, :1])),
        Family.AUTO_CONTRAST.name: (operations.auto_contrast_tables, (index, operations.stretch_tables())),
        Family.EQUALIZE.name: (operations.equalize_tables, (index,)),
        Family.COLOR.name: (operations.recolor, (index, numbers[:, :1])),
        Family.SHARPNESS.name: (operations.sharpen, (index, numbers[:, :1])),
        Family.AFFINE.name: (partial(operations.resample, cubic=True), (index, numbers, fill)),
        Family.BLUR.name: (operations.blur, (index, numbers[:, :3])),
        "finish": (finished, (index, index, index, index, *constants.values())),
    }
    found = {name: count_kernels(function, images, *rest) for name, (function, rest) in calls.items()}
    return {name: (kernels, moved / count) for name, (kernels, moved) in found.items()}


def drawn_plan(recipe: dict[str, Any], side: int = SIZE) -> tuple[DevicePlan, Tensor]:
    """What is drawn for a batch."""
    settings, drawn = AugmentSettings(**recipe), list[list[DrawnOperation]]()
    draw = build_operation_draw(settings, side)
    for number in range(BATCH):
        seed_generators(0, number)
        drawn.append(draw())
    return make_plan(drawn, side, canvas_of(settings))


def host_side(repeats: int = 50) -> dict[str, float]:
    """CPU milliseconds that a batch of RandAugment, erasing and mixing takes where there is nothing to compute."""
    settings, side, ids = AugmentSettings(**RECIPES["RandAugment m9"], **FINISH), 4, torch.arange(BATCH)
    images, drawn = torch.zeros(BATCH, 3, side, side, dtype=torch.uint8), drawn_plan(RECIPES["RandAugment m9"], side)
    found = {}
    for name, compiled in (("compiled", True), ("as it is", False)):
        transform = DeviceTransform(settings, 2, 0, compiled=compiled)
        transform.train(images, ids % 2, ids, ids, ids, drawn)
        start = time.process_time()
        for _ in range(repeats):
            transform.train(images, ids % 2, ids, ids, ids, drawn)
        found[name] = (time.process_time() - start) / repeats * 1e3
    return found


def count_batch(plan: DevicePlan, functions: dict[str, tuple[int, float]]) -> tuple[int, float]:
    """Kernels and bytes of one batch's operations on levels, with the copies back into the batch."""
    image = 3 * SIZE * SIZE
    kernels, moved = functions["flip"][0], functions["flip"][1] * plan.images
    for layer in plan.layers:
        by_table = [group.stop - group.start for group in layer if group.family <= Family.EQUALIZE]
        if by_table:  # one table for all of them is put together, looked up in, and the images are written
            kernels += 2 + functions["look up"][0]
            moved += sum(by_table) * (functions["look up"][1] + 2 * 768 + 2 * image)
        for group in layer:
            own, size = functions.get(group.family.name, (0, 0.0)), group.stop - group.start
            copied = group.family > Family.EQUALIZE
            kernels += own[0] + copied
            moved += size * (own[1] + 2 * image * copied)
    return kernels, moved


def count_device() -> dict[str, dict[str, float]]:
    """Kernels, bytes, and what these take on an H100, of a batch by each recipe, and of what follows all of them."""
    model = model_on_meta(ModelSettings(name="vit_base_patch16_224"), RunConfig(run=RunSettings(name="x")).regularizer)
    flops = count_flops(model, (torch.empty(1, 3, SIZE, SIZE, device="meta"),)).training_flops
    step = BATCH * flops / (MFU * H100_FLOPS)
    functions = count_functions()
    batches = {name: count_batch(drawn_plan(recipe)[0], functions) for name, recipe in RECIPES.items()}
    batches["normalise, erase, mix"] = functions["finish"][0], functions["finish"][1] * BATCH
    return {
        name: {
            "kernels": kernels,
            "megabytes_per_image": moved / BATCH / 1e6,
            "milliseconds": 1e3 * moved / H100_BYTES_PER_SECOND,
            "share": moved / H100_BYTES_PER_SECOND / step,
            "step_milliseconds": 1e3 * step,
        }
        for name, (kernels, moved) in batches.items()
    }


def show(workers: dict[str, dict[str, float]], device: dict[str, dict[str, float]], host: dict[str, float]) -> None:
    first = Table("JPEG to batch, CPU us an image", "where=worker", "where=device", "ratio")
    for name, row in workers.items():
        first.add_row(name, f"{row['worker_us']:.0f}", f"{row['device_us']:.0f}", f"{row['ratio']:.2f}")
    step = next(iter(device.values()))["step_milliseconds"]
    second = Table(
        f"on the device, {BATCH} images", "kernels", "MB an image", "ms on an H100", f"of a step of {step:.1f} ms"
    )
    for name, row in device.items():
        cells = f"{row['megabytes_per_image']:.2f}", f"{row['milliseconds']:.2f}", f"{row['share']:.2%}"
        second.add_row(name, f"{row['kernels']:.0f}", *cells)
    console = Console()
    console.print(first)
    console.print(second)
    console.print("starting RandAugment m9, erasing and mixing, CPU ms a batch of the training process:")
    console.print(", ".join(f"{name} {milliseconds:.1f}" for name, milliseconds in host.items()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, help="folder of JPEGs; none: generated images")
    parser.add_argument("--count", type=int, default=64, help="images that are used")
    parser.add_argument("--rounds", type=int, default=8, help="repetitions of what workers do")
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    files = read_jpegs(arguments.images, arguments.count)
    if not files:
        parser.error(f"no JPEGs under {arguments.images}")
    workers = compare_workers(files, arguments.rounds)
    host = host_side()
    device = count_device()
    show(workers, device, host)
    if arguments.out is not None:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps({"workers": workers, "device": device, "host": host}, indent=1))


if __name__ == "__main__":
    main()
