"""Parity and cost of our image operations against the Pillow operations that timm calls.

    python benchmarks/augmentation.py                      generated images
    python benchmarks/augmentation.py --images DIR         the JPEGs under DIR

One row per operation, at strengths drawn as RandAugment m9 and 3-Augment draw them: largest and mean difference in grey
levels, share of values that differ, CPU microseconds of both on a 224 x 224 image (Pillow on a ready PIL image, ours on
a ready array). Then whole training transforms, from JPEG bytes to uint8 tensors, with equal seeds on both sides.
"""

import argparse
import io
import json
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table
from timm.data import auto_augment as timm_augment

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from jpegs import read_jpegs

from sar_dist.config import AugmentSettings
from sar_dist.data.images import ImageArray, build_eval_transform, build_train_transform
from sar_dist.data.images import image_operations as operations
from sar_dist.randomness import seed_generators

SIZE, FILL, MAX_PIXELS = 224, (124, 116, 104), 10**8
BACKENDS: tuple[Literal["pil", "fast"], ...] = ("pil", "fast")
Draw = Callable[[np.random.Generator], tuple[Any, ...]]


def enhance(rng: np.random.Generator) -> tuple[float]:
    return (float(1 + rng.choice([-1, 1]) * rng.uniform(0.75, 0.9)),)


def signed(low: float, high: float) -> Draw:
    return lambda rng: (float(rng.choice([-1, 1]) * rng.uniform(low, high)),)


TABLES: dict[str, tuple[Callable[..., ImageArray], Draw]] = {
    "AutoContrast": (operations.auto_contrast, lambda _rng: ()),
    "Equalize": (operations.equalize, lambda _rng: ()),
    "Invert": (operations.invert, lambda _rng: ()),
    "Posterize": (operations.posterize, lambda rng: (int(rng.integers(1, 3)),)),
    "Solarize": (operations.solarize, lambda rng: (int(rng.integers(10, 60)),)),
    "SolarizeAdd": (operations.solarize_add, lambda rng: (int(rng.integers(80, 110)),)),
    "Color": (operations.color, enhance),
    "Contrast": (operations.contrast, enhance),
    "Brightness": (operations.brightness, enhance),
    "Sharpness": (operations.sharpness, enhance),
    "Desaturate": (lambda image, _level: operations.color(image, 0.0), lambda _rng: (1.0,)),
    "GaussianBlur": (operations.gaussian_blur, lambda rng: (float(rng.uniform(0.1, 2.0)),)),
}
GEOMETRY: dict[str, tuple[Callable[..., ImageArray], Draw]] = {
    "ShearX": (operations.shear_x, signed(0.2, 0.3)),
    "ShearY": (operations.shear_y, signed(0.2, 0.3)),
    "TranslateX": (operations.translate_x, signed(75, 100)),
    "TranslateY": (operations.translate_y, signed(75, 100)),
    "Rotate": (operations.rotate, signed(20, 30)),
}
RECIPES: dict[str, dict[str, Any]] = {
    "crop + flip": {},
    "RandAugment m9": {"rand_augment": "rand-m9-mstd0.5-inc1"},
    "3-Augment + jitter 0.3": {"three_augment": True, "color_jitter": 0.3},
}


def all_operations() -> dict[str, tuple[Callable[..., Any], Callable[..., ImageArray], Draw]]:
    """Name -> Pillow's function of (image, strength), ours of (array, strength), and how strengths are drawn."""
    pillow: Any = timm_augment.NAME_TO_OP
    cubic = {"fillcolor": FILL, "resample": Image.Resampling.BICUBIC}
    found = {name: (pillow[name], ours, draw) for name, (ours, draw) in TABLES.items()}
    for name, (ours, draw) in GEOMETRY.items():
        found[name] = partial(pillow[name], **cubic), partial(ours, fill=FILL, interpolation="bicubic"), draw
    return found


def microseconds(run: Callable[..., Any], *arguments: Any) -> float:
    """CPU time of ``run(*arguments)``: the least of five groups of ten, which other load disturbs least."""
    groups = []
    for _ in range(5):
        start = time.process_time()
        for _ in range(10):
            run(*arguments)
        groups.append((time.process_time() - start) / 10)
    return min(groups) * 1e6


def compare_operations(images: list[Image.Image]) -> dict[str, dict[str, float]]:
    rng, results = np.random.default_rng(0), {}
    for name, (theirs, ours, draw) in all_operations().items():
        differences, times = [], []
        for image in images:
            array, strength = operations.planes_of(np.asarray(image)), draw(rng)
            expected = operations.planes_of(np.asarray(theirs(image, *strength))).astype(int)
            differences.append(np.abs(expected - ours(array, *strength)))
            times.append((microseconds(theirs, image, *strength), microseconds(ours, array, *strength)))
        stacked = np.stack(differences)
        results[name] = {
            "largest": float(stacked.max()),
            "mean": float(stacked.mean()),
            "differing": float((stacked > 0).mean()),
            "pillow_us": statistics.median(pair[0] for pair in times),
            "ours_us": statistics.median(pair[1] for pair in times),
        }
    return results


def compare_transforms(jpegs: list[bytes], rounds: int) -> dict[str, dict[str, float]]:
    pairs = {"validation": tuple(build_eval_transform(AugmentSettings(backend=b), SIZE, MAX_PIXELS) for b in BACKENDS)}
    for name, recipe in RECIPES.items():
        settings = (AugmentSettings(backend=backend, **recipe) for backend in BACKENDS)
        pairs[name] = tuple(build_train_transform(setting, SIZE, MAX_PIXELS) for setting in settings)
    results = {}
    for name, transforms in pairs.items():
        times: list[list[float]] = [[], []]
        differences = []
        for turn in range(rounds):
            images: list[list[torch.Tensor]] = [[], []]
            for side, transform in enumerate(transforms):
                start = time.process_time()
                for number, data in enumerate(jpegs):
                    seed_generators(turn, number)
                    images[side].append(transform(data))
                times[side].append((time.process_time() - start) / len(jpegs) * 1e6)
            differences += [(a.int() - b.int()).abs().float().mean().item() for a, b in zip(*images, strict=True)]
        results[name] = {
            "mean": statistics.mean(differences),
            "largest_mean": max(differences),
            "pillow_us": min(times[0]),
            "ours_us": min(times[1]),
        }
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, help="folder of JPEGs; none: generated images")
    parser.add_argument("--count", type=int, default=40, help="images that are used")
    parser.add_argument("--rounds", type=int, default=5, help="repetitions of the whole transforms")
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    jpegs = read_jpegs(arguments.images, arguments.count)
    if not jpegs:
        parser.error(f"no JPEGs under {arguments.images}")
    images = [Image.open(io.BytesIO(data)).convert("RGB").resize((SIZE, SIZE)) for data in jpegs]
    results = {"operations": compare_operations(images), "transforms": compare_transforms(jpegs, arguments.rounds)}
    table = Table("operation", "largest", "mean", "differing", "Pillow us", "ours us", "ratio")
    for name, row in results["operations"].items():
        cost = f"{row['pillow_us']:.0f}", f"{row['ours_us']:.0f}", f"{row['pillow_us'] / row['ours_us']:.1f}x"
        table.add_row(name, f"{row['largest']:.0f}", f"{row['mean']:.4f}", f"{row['differing']:.3%}", *cost)
    whole = Table("JPEG to uint8 tensor", "mean", "of the worst image", "pil us", "fast us", "ratio")
    for name, row in results["transforms"].items():
        cost = f"{row['pillow_us']:.0f}", f"{row['ours_us']:.0f}", f"{row['pillow_us'] / row['ours_us']:.2f}x"
        whole.add_row(name, f"{row['mean']:.4f}", f"{row['largest_mean']:.3f}", *cost)
    console = Console()
    console.print(table)
    console.print(whole)
    if arguments.out is not None:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
