"""Repeated augmentation: r copies of each sample in a global batch, still a pure function of its number."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from pathlib import Path

import pytest
from shard_factory import make_shards, number_of, train_loader

from sar_dist.data import Manifest, load_manifest
from sar_dist.data.order.plan import check_streams
from sar_dist.errors import UserError

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")

KEYS = ("image", "label", "sample", "position", "epoch")


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return load_manifest(make_shards(tmp_path_factory.mktemp("data"), [13, 1, 20, 9, 16, 11]), "train")


def rows(
    manifest: Manifest, start: int, stop: int, world: int = 1, micro: int = 3, **options: object
) -> list[list[tuple]]:
    """Global batches start..stop-1 as the ranks together see them: (image, label, sample, position, epoch) of each place."""
    batches: list[list[tuple]] = [[] for _ in range(start, stop)]
    for rank in range(world):
        loader = train_loader(manifest, micro_batch=micro, rank=rank, world_size=world, **options)
        for number, batch in enumerate(loader.iterate(start, stop)):
            batches[number // loader.accumulation] += zip(*(batch[key].tolist() for key in KEYS), strict=True)
    return batches


def test_each_sample_has_its_copies_in_one_batch_augmented_differently(shards: Manifest) -> None:
    loader = train_loader(shards, global_batch=24, micro_batch=3, repeated_augmentation=3)
    assert (loader.steps_per_epoch, loader.fingerprint()["streams"], loader.accumulation) == (2, 8, 8)
    for batch in rows(shards, 0, 12, global_batch=24, repeated_augmentation=3):
        images: dict[int, list] = {}
        for image, _, sample, _, _ in batch:
            images.setdefault(sample, []).append(image)
        assert len(images) == 8
        for copies in images.values():
            assert len(copies) == 3
            assert all(one != other for one, other in itertools.combinations(copies, 2))
        assert len({(sample, epoch) for _, _, sample, _, epoch in batch}) == 24, (
            "the device's random numbers are of the copy"
        )
        assert all(batch[place][2] != batch[place + 1][2] for place in range(23)), "mixup mixes neighbours"


def test_no_sample_returns_before_all_others_had_their_turn(shards: Manifest) -> None:
    """70 samples, 8 at a time: a pass is 8 batches, four epochs of 2."""
    batches = rows(shards, 0, 24, global_batch=24, repeated_augmentation=3)
    for first in range(0, 24, 8):
        seen = Counter(row[2] for batch in batches[first : first + 8] for row in batch)
        assert len(seen) == 64
        assert set(seen.values()) == {3}
        assert {row[4] for batch in batches[first : first + 8] for row in batch} == {
            first // 8 * 3 + copy for copy in range(3)
        }
    assert [row[3] for batch in batches for row in batch] == list(range(24 * 24))


@pytest.mark.parametrize("case", range(12))
def test_any_ranks_micro_batches_and_kill_points_give_the_same_batches(tmp_path: Path, case: int) -> None:
    generator = random.Random(case)
    sizes = [generator.randrange(1, 20) for _ in range(generator.randrange(1, 7))]
    repeats = generator.choice([2, 3, 4])
    different = generator.choice([8, 16, 24])
    options = {
        "global_batch": different * repeats,
        "repeated_augmentation": repeats,
        "streams": generator.choice([None, 1, 4, 8]),
        "window_shards": generator.choice([0.2, 1, 4]),
        "seed": generator.randrange(2**32),
    }
    sizes[0] += max(0, different * repeats - sum(sizes))
    manifest = load_manifest(make_shards(tmp_path / "data", sizes), "train")
    stop = 2 * (sum(sizes) // different) + 1
    kill = generator.randrange(stop)

    def run(world: int, start: int, stop: int) -> list[list[tuple]]:
        micro = generator.choice([d for d in (1, 2, 4) if different * repeats // world % d == 0])
        return rows(manifest, start, stop, world, micro, **options)

    unbroken = run(1, 0, stop)
    for world in (2, 4, 8):
        assert run(world, 0, stop) == unbroken
    assert run(generator.choice([1, 2, 8]), 0, kill) + run(generator.choice([1, 2, 8]), kill, stop) == unbroken


def test_workers_do_not_matter(shards: Manifest) -> None:
    options = {"global_batch": 24, "repeated_augmentation": 2}
    assert rows(shards, 3, 9, **options) == rows(shards, 3, 9, workers=2, **options)


def test_a_bad_samples_copies_have_the_same_substitute(tmp_path: Path) -> None:
    folder = make_shards(tmp_path / "data", [24])
    shard = folder / "shard-0000.tar"
    content = bytearray(shard.read_bytes())
    start = content.index(b"\x89PNG")
    content[start : start + 8] = bytes(8)  # sample 0
    shard.write_bytes(content)
    loader = train_loader(folder, global_batch=24, micro_batch=24, repeated_augmentation=2, max_bad_fraction=1.0)
    batches = list(loader.iterate(0, 2))  # a pass
    assert sum(batch["bad"] for batch in batches) == 2
    counts = Counter(sample for batch in batches for sample in batch["sample"].tolist())
    assert 0 not in counts
    assert sorted(counts.values()) == [2] * 22 + [4]
    for batch in batches:
        assert [number_of(image) for image in batch["image"]] == batch["sample"].tolist()


def test_the_number_of_copies_is_part_of_the_order(shards: Manifest) -> None:
    options = {"global_batch": 24, "micro_batch": 3, "streams": 4}
    state = train_loader(shards, **options).state_dict(3)
    del state["fingerprint"]["repeated_augmentation"]  # as older checkpoints are
    train_loader(shards, **options).load_state_dict(state)
    with pytest.raises(UserError, match=r"\(repeated_augmentation 1 -> 2\)"):
        train_loader(shards, repeated_augmentation=2, **options).load_state_dict(state)

    changed = train_loader(shards, repeated_augmentation=2, allow_changed=True, **options)
    changed.load_state_dict(
        state
    )  # 3 batches of 2 an epoch: in epoch 1; the next pass is number 2, from batch 2 * 5 on
    assert changed.next_batch == 3
    found = [batch["sample"].tolist() for batch in changed.iterate(3, 5)]
    plain = train_loader(shards, repeated_augmentation=2, **options)
    assert found == [batch["sample"].tolist() for batch in plain.iterate(10, 12)]


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ((8, 1024, 8, 3), r"repeated_augmentation=3 must divide optim.global_batch=1024; use 1008 or 1032"),
        ((5, 24, 1, 3), r"streams=5 must divide the 8 different samples .*; valid: 1, 2, 4, 8"),
        ((8, 25, 2, 5), r"cannot be shared by 2 processes"),
    ],
)
def test_impossible_numbers(numbers: tuple[int, int, int, int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_streams(*numbers)
