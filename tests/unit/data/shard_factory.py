"""Small shards and a small transform for the tests of the data package."""

from __future__ import annotations

import hashlib
import io
import os
import random
import tarfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sar_dist.config import DataSettings
from sar_dist.data import Manifest, TrainingSet, TrainLoader, load_manifest
from sar_dist.data.images.decode import decode_image
from sar_dist.data.making.sources import DemoScenes
from sar_dist.data.making.writing import WritingOptions, write_shards

REAL_DATA = Path(__file__).resolve().parents[3].parent / "shared" / "data"
CLASSES = 7

Members = Iterable[tuple[str, bytes]]


def image_of(number: int) -> bytes:
    """A tiny image that tells its sample number: PNG, so that pixels are exact."""
    out = io.BytesIO()
    pixels = np.full((4, 4, 3), (number % 256, number // 256 % 256, number // 65536), dtype=np.uint8)
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def number_of(image: Tensor) -> int:
    """The sample number in the first pixel of a decoded ``image_of``."""
    red, green, blue = image[:, 0, 0].tolist()
    return int(red + 256 * green + 65536 * blue)


def sample_members(number: int) -> list[tuple[str, bytes]]:
    """Members of sample ``number``; its label is number % CLASSES."""
    return [(f"s{number:06d}.jpg", image_of(number)), (f"s{number:06d}.cls", b"%d" % (number % CLASSES))]


def tar_bytes(members: Members, tar_format: int = tarfile.USTAR_FORMAT) -> bytes:
    """A tar of the given (name, data) members, in order, duplicates included."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tar_format) as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def flip(path: Path, offset: int, mask: int = 4) -> None:
    """Change one bit as bit rot does it: the time of modification stays."""
    state = path.stat()
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ mask]))
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))


def make_shards(folder: Path, sizes: Sequence[int], prefix: str = "shard") -> Path:
    """Bare tars with ``sizes`` samples each; sample numbers run through all shards, hence are the global ids."""
    folder.mkdir(parents=True, exist_ok=True)
    first = 0
    for i, size in enumerate(sizes):
        members = [member for number in range(first, first + size) for member in sample_members(number)]
        (folder / f"{prefix}-{i:04d}.tar").write_bytes(tar_bytes(members))
        first += size
    return folder


def contents(folder: Path) -> dict[str, str]:
    """sha256 of every file but the index, which holds modification times."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix not in (".index", ".lock"))
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def make_scenes(folder: Path, shards: int = 3) -> Path:
    """Shards of 4 demo scenes each with a manifest."""
    write_shards(DemoScenes("train", 4 * shards, 3, 32, 0), folder, WritingOptions(samples_per_shard=4, processes=1))
    return folder


def corner(data: bytes) -> Tensor:
    """uint8 (3, 8, 8) from the corner of an image."""
    return decode_image(data, max_pixels=10**6)[:, :8, :8].clone()


def random_transform(data: bytes) -> Tensor:
    """uint8 (3, 4, 4) whose first pixel tells the sample; the others are drawn from all three global generators."""
    image = decode_image(data, max_pixels=1000)[:, :4, :4].clone()
    image[:, 1] = random.randrange(256)
    image[:, 2] = int(np.random.randint(256))  # noqa: NPY002 - as third-party transforms do
    image[:, 3] = torch.randint(0, 256, (3, 4), dtype=torch.uint8)
    return image


def train_loader(
    manifest: Manifest | Path | Sequence[TrainingSet],
    *,
    global_batch: int,
    micro_batch: int,
    rank: int = 0,
    world_size: int = 1,
    **options: object,
) -> TrainLoader:
    """A training loader with the test's transform; ``options`` are data settings, ``seed``, ``transform`` or ``later``."""
    if isinstance(manifest, Path):
        manifest = load_manifest(manifest, "train")
    seed, transform = options.pop("seed", 0), options.pop("transform", random_transform)
    later = options.pop("later", None)
    return TrainLoader(
        manifest,
        data=DataSettings(**{"workers": 0, **options}),
        transform=transform,
        global_batch=global_batch,
        micro_batch=micro_batch,
        rank=rank,
        world_size=world_size,
        seed=seed,
        num_classes=CLASSES,
        later=later,
    )
