"""Bits flipped in the shards while a loader reads them: none of the altered bytes is delivered, and each loss is counted."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from shard_factory import CLASSES, flip, tar_bytes, train_loader
from torch import Tensor

from sar_dist.config import DataSettings
from sar_dist.data import TrainLoader, ValidationLoader, load_manifest
from sar_dist.data.shards import BLOCK
from sar_dist.data.shards.checks import open_index
from sar_dist.errors import UserError

SHARDS, SAMPLES, BATCH = 3, 40, 8
FEW, MANY = 6, 200


def content(number: int) -> bytes:
    return b"%04d" % number + random.Random(number).randbytes(200 + 40 * number % 1500)


CONTENTS = {content(number): number for number in range(SHARDS * SAMPLES)}


def number_in(data: bytes) -> Tensor:
    """Instead of decoding: the number of the sample, if these are its very bytes."""
    return torch.full((3, 1, 1), CONTENTS[data], dtype=torch.uint8)


def write(folder: Path) -> list[Path]:
    folder.mkdir()
    paths = [folder / f"train-{shard}.tar" for shard in range(SHARDS)]
    for shard, path in enumerate(paths):
        numbers = range(shard * SAMPLES, (shard + 1) * SAMPLES)
        path.write_bytes(
            tar_bytes(
                member
                for number in numbers
                for member in ((f"s{number}.jpg", content(number)), (f"s{number}.cls", b"%d" % (number % CLASSES)))
            )
        )
    return paths


def flip_some(draw: random.Random, paths: list[Path]) -> set[tuple[int, int]]:
    """Flip up to three bits of a shard, anywhere; gives (shard, byte) of each."""
    shard = draw.randrange(len(paths))
    size = paths[shard].stat().st_size
    places = {draw.randrange(size) for _ in range(draw.randint(1, 3))}
    for place in places:
        flip(paths[shard], place, 1 << draw.randrange(8))
    return {(shard, place) for place in places}


def loader_of(folder: Path, **options: object) -> TrainLoader:
    return train_loader(
        folder, global_batch=BATCH, micro_batch=BATCH, transform=number_in, max_bad_fraction=1, **options
    )


def read_while_bits_flip(folder: Path, seed: int) -> int:
    """Two epochs with a flip before each batch; the number of samples that were replaced."""
    draw = random.Random(seed)
    paths = write(folder)
    loader = loader_of(folder, seed=seed)
    records = open_index(load_manifest(folder, "train"))
    flipped: set[tuple[int, int]] = set()
    for batch in loader.iterate(0, 2 * loader.steps_per_epoch):
        assert batch["image"][:, 0, 0, 0].tolist() == batch["sample"].tolist()
        assert batch["label"].tolist() == [number % CLASSES for number in batch["sample"].tolist()]
        for number in batch["sample"].tolist():
            shard, place = divmod(number, SAMPLES)
            _, image, size, *_ = records.of_shard(shard)[place].item()
            assert not any((shard, byte) in flipped for byte in range(image - BLOCK, image + size))
        flipped |= flip_some(draw, paths)
    keys = loader.bad_samples.keys
    assert all(" altered since it was indexed" in key for key in keys)
    assert loader.bad_samples.seen == 2 * loader.steps_per_epoch * BATCH
    return loader.bad_samples.bad


def test_no_altered_byte_is_delivered(tmp_path: Path) -> None:
    replaced = [read_while_bits_flip(tmp_path / str(seed), seed) for seed in range(FEW)]
    assert all(replaced), "no flip met a sample that was read later"


@pytest.mark.parametrize("workers", [0, 2])
def test_by_policy_in_training_and_validation(tmp_path: Path, workers: int) -> None:
    """One altered image: replaced in training and the same one for any workers, wrong in validation, refused at limit 0."""
    paths = write(tmp_path / "a")
    loader = loader_of(tmp_path / "a", workers=workers)
    clean = [batch["sample"].tolist() for batch in loader.iterate(0, loader.steps_per_epoch)]
    flip(paths[0], BLOCK + 100)
    served = [batch["sample"].tolist() for batch in loader.iterate(0, loader.steps_per_epoch)]
    differing = [a for was, now in zip(clean, served, strict=True) for a, b in zip(was, now, strict=True) if a != b]
    assert differing == [0]
    (key,) = loader.bad_samples.keys
    assert key.startswith(f"{paths[0]}/s0: altered since it was indexed")
    options = {
        "data": DataSettings(workers=workers),
        "transform": lambda data: number_in(data) if data in CONTENTS else torch.zeros(3, 1, 1, dtype=torch.uint8),
    }
    validation = ValidationLoader(
        load_manifest(tmp_path / "a", "train"), micro_batch=BATCH, rank=0, world_size=1, num_classes=CLASSES, **options
    )
    bad = [sample for batch in validation.iterate() for sample in batch["sample"][batch["bad"]].tolist()]
    assert bad == [0]
    strict = train_loader(
        tmp_path / "a", global_batch=BATCH, micro_batch=BATCH, transform=number_in, max_bad_fraction=0, workers=workers
    )
    with pytest.raises(UserError, match="s0: altered since it was indexed"):
        list(strict.iterate(0, strict.steps_per_epoch))


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_thousands_of_flips(tmp_path: Path) -> None:
    """30 batches with up to three flips each, 200 times."""
    assert sum(read_while_bits_flip(tmp_path / str(seed), seed) for seed in range(FEW, MANY)) > 1000
