"""Throughput of the data path: our loader against timm's WebDataset reader and a plain WebDataset pipeline.

    python benchmarks/loader.py                              generated images of 500 x 375 pixels
    python benchmarks/loader.py --images DIR                 the JPEGs under DIR
    python benchmarks/loader.py --workers 1 2 4 --out F.json
    python benchmarks/loader.py --max-short-side 256 320     also on images resized to these short sides (default: 256)
    python benchmarks/loader.py --where device              the workers' part of augment.where=device
    python benchmarks/loader.py --plan                       our recipes and backends alone, for the table of the planner
    python benchmarks/loader.py --checksums --rounds 25     what comparing each sample's checksum costs
    python benchmarks/loader.py --together --rounds 9       what reading, drawing and resizing for several at once saves

All sides read the same shards (timm's layout, written to a temporary folder, in the page cache; LitData's chunks hold the
same files) and give batches of 224 x 224 crops. CPU time is per image, of the process and its workers together; images per
second are of wall-clock time; both from the ninth batch on, when memory has been used before, as in a run of hours; medians of
rounds in which the sides take turns, so that a change of load hits all.
Floors: what reading the tars and decoding alone cost. timm's RandAugment is repaired here, it would stop at an image
that is posterized to no bits.
"""

import argparse
import io
import json
import multiprocessing
import os
import platform
import statistics
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal
from unittest.mock import patch

import cv2
import numpy as np
import psutil
import timm
import torch
import torchvision
import webdataset as wds
from PIL import Image
from rich.console import Console
from rich.table import Table
from timm.data import create_dataset, create_transform
from timm.data.loader import fast_collate
from torch.utils.data import DataLoader

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from jpegs import jpeg_files
from other_loaders import missing, other_sides

from sar_dist.config import AugmentSettings, DataSettings
from sar_dist.data import TrainLoader, batching, load_manifest
from sar_dist.data.images import (
    Canvas,
    Draw,
    EncodedTrainTransform,
    FastTrainTransform,
    build_operation_draw,
    build_train_transform,
    canvas_of,
    decode_image,
    decode_pil,
    make_posterize_safe,
    turbojpeg,
)
from sar_dist.data.making import resized_image
from sar_dist.data.shards import Resizing, reading

SIZE, BATCH, CLASSES, SHARDS = 224, 50, 1000, 8
WARM_UP = 8  # batches
MAX_PIXELS = 10**8
RECIPES: dict[str, str | None] = {"crop + flip": None, "RandAugment": "rand-m9-mstd0.5-inc1"}
PLANNED: dict[str, dict[str, Any]] = {
    "crop and flip": {},
    "RandAugment": {"rand_augment": "rand-m9-mstd0.5-inc1"},
    "3-Augment": {"three_augment": True, "color_jitter": 0.3},
}
FLOORS = "parts alone"
PLAN = "ours, for the planner"
CHECKSUMS = "the price of checksums, crop + flip"
TOGETHER = "samples read, drawn for and resized together, RandAugment on the device"
Side = Callable[[int], Iterable[Any]]  # number of workers to batches


def jpegs_of(folder: Path | None) -> list[bytes]:
    """JPEG files under a folder, or generated ones that compress about as ImageNet's do."""
    if folder is not None:
        return [path.read_bytes() for path in jpeg_files(folder)]
    rng = np.random.default_rng(0)
    jpegs = []
    for _ in range(60):
        coarse = rng.integers(0, 256, (24, 32, 3), dtype=np.uint8)
        pixels = cv2.resize(coarse, (500, 375), interpolation=cv2.INTER_CUBIC) + rng.normal(0, 14, (375, 500, 3))
        buffer = io.BytesIO()
        Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=90)
        jpegs.append(buffer.getvalue())
    return jpegs


def write_shards(jpegs: list[bytes], samples: int, folder: Path) -> None:
    """Shards of ``samples`` samples in the layout of the public timm ImageNet shards, images repeated as needed."""
    names, lengths = [], []
    for shard in range(SHARDS):
        numbers = range(shard, samples, SHARDS)
        names.append(f"bench-train-{shard:04d}.tar")
        lengths.append(len(numbers))
        with tarfile.open(folder / names[-1], "w") as tar:
            for number in numbers:
                for extension, content in (
                    ("jpg", jpegs[number % len(jpegs)]),
                    ("cls", str(number % CLASSES).encode()),
                ):
                    member = tarfile.TarInfo(f"{number:07d}.{extension}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
    split = {"name": "train", "num_samples": samples, "filenames": names, "shard_lengths": lengths}
    (folder / "_info.json").write_text(json.dumps({"name": "bench", "splits": {"train": split}}))


def timm_transform(rand_augment: str | None, uint8: bool) -> Any:
    transform = create_transform(
        SIZE,
        is_training=True,
        color_jitter=None,  # type: ignore[arg-type]  # timm's annotation leaves None out
        auto_augment=rand_augment,
        interpolation="bicubic",
        use_prefetcher=uint8,
    )
    make_posterize_safe(transform.transforms)
    return transform


def timm_side(folder: Path, rand_augment: str | None, uint8: bool) -> Side:
    """timm's own reader and transforms; with uint8 as its training script has it, normalised on the device."""

    def batches(workers: int) -> Iterable[Any]:
        dataset = create_dataset("wds/", root=str(folder), split="train", is_training=True, batch_size=BATCH)
        dataset.transform = timm_transform(rand_augment, uint8)
        return DataLoader(dataset, BATCH, num_workers=workers, collate_fn=fast_collate if uint8 else None)

    return batches


def plain_side(folder: Path, rand_augment: str | None) -> Side:
    """What WebDataset's documentation shows: shuffle, decode to PIL, transform, batch."""
    transform = timm_transform(rand_augment, uint8=False)
    urls = [str(path) for path in sorted(folder.glob("*.tar"))]

    def batches(workers: int) -> Iterable[Any]:
        dataset = wds.WebDataset(urls, shardshuffle=len(urls), nodesplitter=None, seed=0)
        dataset = dataset.shuffle(1000).decode("pilrgb").to_tuple("jpg", "cls").map_tuple(transform, int)
        return DataLoader(dataset, BATCH, num_workers=workers)

    return batches


def loader_side(
    folder: Path,
    transform: Callable[[bytes], torch.Tensor] | EncodedTrainTransform,
    later: tuple[Draw, Canvas] | None = None,
) -> Side:
    """The training loader as ``tools/train.py`` builds it; what it leaves to the device, ``later``, is not done."""
    manifest = load_manifest(folder, "train")

    def batches(workers: int) -> Iterable[Any]:
        loader = TrainLoader(
            manifest,
            data=DataSettings(workers=workers),
            transform=transform,
            global_batch=BATCH,
            micro_batch=BATCH,
            rank=0,
            world_size=1,
            seed=0,
            num_classes=CLASSES,
            later=later,
        )
        return loader.iterate(0, loader.steps_per_epoch)

    return batches


def sides_of(folder: Path, rand_augment: str | None, where: Literal["worker", "device"]) -> dict[str, Side]:
    """Ours with the operations where the option says; of ``data.decoder=gpu`` what is left for the workers; the others."""
    augment = AugmentSettings(rand_augment=rand_augment, where=where)
    on_device = augment.model_copy(update={"where": "device"})
    later = (build_operation_draw(augment, SIZE), canvas_of(augment))
    decoding = build_train_transform(on_device, SIZE, MAX_PIXELS)
    assert isinstance(decoding, FastTrainTransform)
    ours = loader_side(folder, build_train_transform(augment, SIZE, MAX_PIXELS), later if where == "device" else None)
    return {
        "ours": ours,
        **({"ours, without TurboJPEG 3": without_turbojpeg(ours)} if turbojpeg.is_there() else {}),
        "ours, data.decoder=gpu": loader_side(folder, EncodedTrainTransform(decoding), later),
        "timm float": timm_side(folder, rand_augment, uint8=False),
        "timm uint8": timm_side(folder, rand_augment, uint8=True),
        "WebDataset + timm float": plain_side(folder, rand_augment),
    }


def without_turbojpeg(side: Side) -> Side:
    """Decoding rows below a crop's is all that is left out."""

    def batches(workers: int) -> Iterator[Any]:
        with patch.object(turbojpeg, "is_there", lambda: False):  # workers are forked meanwhile
            yield from side(workers)

    return batches


def planned_sides(folder: Path) -> dict[str, Side]:
    """Our loader with each recipe and backend that the planner knows; all work in the data workers."""
    sides = {}
    for recipe, settings in PLANNED.items():
        for backend in ("fast", "pil"):
            augment = AugmentSettings.model_validate({"backend": backend, **settings})
            sides[f"{recipe}, {backend}"] = loader_side(folder, build_train_transform(augment, SIZE, MAX_PIXELS))
    return sides


def floors(folder: Path) -> dict[str, Side]:
    """What the parts cost alone."""
    urls = [str(path) for path in sorted(folder.glob("*.tar"))]
    jpegs = [sample["jpg"] for sample in wds.WebDataset(urls, shardshuffle=False)]

    def decoded(decode: Callable[[bytes, int], object]) -> Iterator[dict[str, Any]]:
        for start in range(0, len(jpegs), BATCH):
            batch = jpegs[start : start + BATCH]
            for data in batch:
                decode(data, MAX_PIXELS)
            yield {"label": batch}

    def read_by_webdataset(workers: int) -> Iterable[Any]:
        dataset = wds.WebDataset(urls, shardshuffle=False).to_tuple("jpg", "cls")
        return DataLoader(dataset, BATCH, num_workers=workers, collate_fn=lambda samples: (None, samples))

    return {
        "read and batch, ours": loader_side(folder, Blank()),
        "read, WebDataset": read_by_webdataset,
        "decode, ours": lambda _workers: decoded(decode_image),
        "decode, Pillow": lambda _workers: decoded(decode_pil),
    }


def with_and_without_checksums(folder: Path) -> dict[str, Side]:
    """The training loader, and the same with the comparison of each sample's checksum left out; and reading alone."""
    whole = loader_side(folder, build_train_transform(AugmentSettings(), SIZE, MAX_PIXELS))
    reading_alone = loader_side(folder, Blank())

    def without(side: Side) -> Side:
        def batches(workers: int) -> Iterator[Any]:
            with patch.object(reading, "is_unaltered", lambda _record, _data: True):  # workers are forked meanwhile
                yield from side(workers)

        return batches

    return {
        "with checksums": whole,
        "without": without(whole),
        "read and batch, with": reading_alone,
        "read and batch, without": without(reading_alone),
    }


def together_and_one_by_one(folder: Path) -> dict[str, Side]:
    """The training loader with RandAugment on the device, and the same reading, drawing and resizing for one sample at a time."""
    augment = AugmentSettings(rand_augment=RECIPES["RandAugment"], where="device")
    later = (build_operation_draw(augment, SIZE), canvas_of(augment))
    together = loader_side(folder, build_train_transform(augment, SIZE, MAX_PIXELS), later)

    def one_by_one(workers: int) -> Iterator[Any]:
        with patch.object(batching, "_TOGETHER", 1):  # the pipeline is made meanwhile
            yield from together(workers)

    return {"together": together, "one by one": one_by_one}


class Blank:
    """Instead of a transform: the same image always."""

    def __init__(self) -> None:
        self.image = torch.zeros(3, SIZE, SIZE, dtype=torch.uint8)

    def __call__(self, _data: bytes) -> torch.Tensor:
        return self.image


def images_in(batches: Iterable[Any]) -> Iterator[int]:
    for batch in batches:
        yield len(batch["label"] if isinstance(batch, dict) else batch[1])


def cpu_seconds() -> float:
    """CPU time so far of this process and its workers."""
    workers = (psutil.Process(child.pid).cpu_times() for child in multiprocessing.active_children())
    return time.process_time() + sum(times.user + times.system for times in workers)


def run_once(batches: Iterable[Any]) -> tuple[float, float]:
    """CPU milliseconds per image and images per second of wall-clock time, once the first batches have come."""
    counts = images_in(batches)
    for _ in range(WARM_UP):
        next(counts)
    images, begin = 0, (cpu_seconds(), time.perf_counter())
    end = begin
    for count in counts:
        images, end = images + count, (cpu_seconds(), time.perf_counter())
    return (end[0] - begin[0]) / images * 1e3, images / (end[1] - begin[1])


def measure(sides: Mapping[str, Side], rounds: int, workers: list[int]) -> dict[str, Any]:
    """Medians over rounds in which the sides take turns; ratios are of runs next to each other."""
    cpu: dict[str, list[float]] = {name: [] for name in sides}
    speed: dict[str, dict[int, list[float]]] = {name: {count: [] for count in workers} for name in sides}
    for _ in range(rounds):
        for count in workers:
            for name, side in sides.items():
                milliseconds, images_per_second = run_once(side(count))
                speed[name][count].append(images_per_second)
                if count == workers[0]:
                    cpu[name].append(milliseconds)
    first = cpu[next(iter(sides))]
    return {
        "cpu_ms": {name: statistics.median(values) for name, values in cpu.items()},
        "cpu_ms_least": {name: min(values) for name, values in cpu.items()},
        "advantage": {
            name: statistics.median(theirs / ours for theirs, ours in zip(values, first, strict=True))
            for name, values in cpu.items()
        },
        "images_per_second": {
            name: {count: statistics.median(values) for count, values in counts.items()}
            for name, counts in speed.items()
        },
    }


def smaller(jpegs: list[bytes], max_short_side: int) -> list[bytes]:
    """As ``make_shards.py --max-short-side`` makes them."""
    return [resized_image(data, Resizing(max_short_side), MAX_PIXELS) or data for data in jpegs]


def measure_images(name: str, jpegs: list[bytes], arguments: argparse.Namespace) -> dict[str, Any]:
    """The tables of one set of images: each recipe, and the parts alone."""
    results = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_shards(jpegs, arguments.samples, folder)
        if arguments.plan:
            return {f"{PLAN}, {name}": measure(planned_sides(folder), arguments.rounds, [1])}
        for recipe in arguments.recipe:
            rand_augment = RECIPES[recipe]
            sides = sides_of(folder, rand_augment, arguments.where)
            if rand_augment is None:
                transform = timm_transform(None, uint8=True)
                sides |= other_sides(folder, jpegs, arguments.samples, SIZE, BATCH, transform)
            results[f"{recipe}, {name}"] = measure(sides, arguments.rounds, arguments.workers)
        results[f"{FLOORS}, {name}"] = measure(floors(folder), arguments.rounds, [1])
    return results


def measure_all(jpegs: list[bytes], arguments: argparse.Namespace) -> dict[str, Any]:
    """The tables of the images as they are and resized."""
    results = measure_images("original images", jpegs, arguments)
    for side in arguments.max_short_side:
        results |= measure_images(f"short side {side} px", smaller(jpegs, side), arguments)
    return results


def measure_part(jpegs: list[bytes], arguments: argparse.Namespace) -> dict[str, Any]:
    """The table of the one part that was asked for."""
    name, sides = (
        (CHECKSUMS, with_and_without_checksums) if arguments.checksums else (TOGETHER, together_and_one_by_one)
    )
    with tempfile.TemporaryDirectory() as folder:
        write_shards(jpegs, arguments.samples, Path(folder))
        return {name: measure(sides(Path(folder)), arguments.rounds, [1])}


def print_results(console: Console, results: dict[str, Any], workers: list[int]) -> None:
    for recipe, result in results["recipes"].items():
        table = Table(title=f"{recipe}, {SIZE} x {SIZE}")
        for column in ("", "CPU ms/img", "img/s/core", "ours is", *(f"img/s, {n} workers" for n in workers)):
            table.add_column(column, justify="right" if column else "left")
        for name, milliseconds in result["cpu_ms"].items():
            measured = result["images_per_second"][name]
            speeds = (f"{measured[n]:.0f}" if n in measured else "" for n in workers)
            ratio = f"{result['advantage'][name]:.2f}x" if not recipe.startswith((FLOORS, PLAN)) else ""
            table.add_row(name, f"{milliseconds:.2f}", f"{1e3 / milliseconds:.0f}", ratio, *speeds)
        console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, help="folder of JPEGs; none: generated images")
    parser.add_argument("--samples", type=int, default=1200, help="samples in the shards, each read once a run")
    parser.add_argument("--rounds", type=int, default=5, help="runs of each side")
    parser.add_argument("--recipe", choices=list(RECIPES), nargs="+", default=list(RECIPES), help="of the comparison")
    parser.add_argument(
        "--workers", type=int, nargs="+", default=[1, 2], help="numbers of workers; CPU time is that of the first"
    )
    parser.add_argument("--max-short-side", type=int, nargs="*", default=[256], help="resized images to measure, too")
    parser.add_argument(
        "--where",
        choices=("worker", "device"),
        default="worker",
        help="augment.where of ours; a device's part is not measured",
    )
    parser.add_argument("--plan", action="store_true", help="measure only our loader, with every recipe and backend")
    parser.add_argument("--checksums", action="store_true", help="measure only what comparing checksums costs")
    parser.add_argument(
        "--together",
        action="store_true",
        help="measure only what drawing and resizing for several samples at once saves",
    )
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    if arguments.samples < 2 * WARM_UP * BATCH:
        parser.error(f"--samples {arguments.samples} are too few, {2 * WARM_UP * BATCH} are the least")
    jpegs = jpegs_of(arguments.images)
    if not jpegs:
        parser.error(f"no JPEGs under {arguments.images}")
    results: dict[str, Any] = {
        "machine": {
            "cpu": platform.processor() or platform.machine(),
            "cores": os.cpu_count(),
            "load": os.getloadavg(),
        },
        "versions": {module.__name__: module.__version__ for module in (torch, torchvision, timm, wds, cv2, np)},
        "images": {"from": str(arguments.images), "count": len(jpegs), "mean_bytes": statistics.mean(map(len, jpegs))},
    }
    one_part = arguments.checksums or arguments.together
    results["recipes"] = measure_part(jpegs, arguments) if one_part else measure_all(jpegs, arguments)
    print_results(Console(), results, [1] if one_part else arguments.workers)
    for name, reason in ({} if one_part else missing()).items():
        print(f"not measured: {name}: {reason}")
    if arguments.checksums:
        share = 1 - results["recipes"][CHECKSUMS]["advantage"]["without"]
        Console().print(f"comparing checksums takes {share:.1%} of the loader's CPU time (median of pairs of runs)")
    if arguments.out is not None:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
