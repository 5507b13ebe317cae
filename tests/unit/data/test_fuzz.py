"""Shards damaged at random, without a manifest that could tell: never a wrong label, a silent loss or a hang."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from shard_factory import CLASSES, image_of, number_of, random_transform, sample_members, tar_bytes, train_loader

from sar_dist.config import DataSettings
from sar_dist.data import ValidationLoader, load_manifest
from sar_dist.data.shards.tar_index import BLOCK
from sar_dist.errors import UserError

SAMPLES = 12
WHOLE = tar_bytes([member for number in range(SAMPLES) for member in sample_members(number)])
# What is not padding in a sample: the used part of its headers, and its image.
PARTS = (range(345), range(BLOCK, BLOCK + len(image_of(0))), range(2 * BLOCK, 2 * BLOCK + 345))
# Without a checksum, a digit of a label that became another digit is a label like any other.
LABELS = {4 * BLOCK * number + 3 * BLOCK for number in range(SAMPLES)}


def damaged(generator: random.Random) -> bytes:
    """The shard with a few bytes flipped or swapped, a block moved, or its end cut off."""
    data = bytearray(WHOLE)
    kind = generator.choice(["flip", "swap", "block", "cut"])
    for _ in range(generator.randrange(1, 3)):
        first, second = (
            4 * BLOCK * generator.randrange(SAMPLES) + generator.choice(generator.choice(PARTS)) for _ in range(2)
        )
        if kind == "flip":
            data[first] ^= 1 << generator.randrange(8)
        elif kind == "swap":
            data[first], data[second] = data[second], data[first]
        elif kind == "block":
            first, second = (position // BLOCK * BLOCK for position in (first, second))
            if not LABELS & {first, second}:
                data[first : first + BLOCK], data[second : second + BLOCK] = (
                    data[second : second + BLOCK],
                    data[first : first + BLOCK],
                )
        else:
            return bytes(data[:first])
    return bytes(data)


def swapped_images(data: bytes) -> bool:
    """Whether whole images changed places: in a tar without checksums, these are images like any other."""
    blocks = [data[offset + BLOCK : offset + 2 * BLOCK] for offset in range(0, 4 * BLOCK * SAMPLES, 4 * BLOCK)]
    own = [image_of(number).ljust(BLOCK, b"\0") for number in range(SAMPLES)]
    return any(block in own and block != own[number] for number, block in enumerate(blocks))


@pytest.mark.timeout(120)
def test_damage_is_refused_replaced_or_harmless(tmp_path: Path) -> None:
    generator = random.Random(0)
    refused = replaced = 0
    for round_number in range(200):
        data = damaged(generator)
        if swapped_images(data):
            continue
        folder = tmp_path / str(round_number)
        folder.mkdir()
        (folder / "train-0.tar").write_bytes(data)
        try:
            manifest = load_manifest(folder, "train")
            loader = train_loader(manifest, global_batch=3, micro_batch=3, max_bad_fraction=1)
            batches = list(loader.iterate(0, loader.steps_per_epoch))
        except UserError:
            refused += 1
            continue
        assert sum(len(batch["label"]) for batch in batches) == manifest.total // 3 * 3
        for batch in batches:
            labels = [number_of(image) % CLASSES for image in batch["image"]]
            assert batch["label"].tolist() == labels
            replaced += batch["bad"]
        assert manifest.total >= SAMPLES, "a sample was lost"
        assert validated(folder) == manifest.total
    assert refused > 50
    assert replaced > 5


def validated(folder: Path) -> int:
    """Samples that a validation over the shards counts."""
    loader = ValidationLoader(
        load_manifest(folder, "train"),
        data=DataSettings(workers=0),
        transform=random_transform,
        micro_batch=5,
        rank=0,
        world_size=1,
        num_classes=CLASSES,
    )
    return sum(int(batch["valid"].sum()) for batch in loader.iterate())
