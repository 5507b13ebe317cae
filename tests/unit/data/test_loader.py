"""The loaders: the same batches for any ranks, workers and interruptions; validation of exactly every sample."""

from __future__ import annotations

import itertools
import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from shard_factory import (
    CLASSES,
    REAL_DATA,
    image_of,
    make_shards,
    number_of,
    random_transform,
    sample_members,
    tar_bytes,
    train_loader,
)

from sar_dist.config import AugmentSettings, DataSettings
from sar_dist.data import Manifest, TrainLoader, ValidationLoader, load_manifest
from sar_dist.data.fingerprint import changes
from sar_dist.data.images import Canvas, build_operation_draw
from sar_dist.data.shards import BLOCK
from sar_dist.errors import UserError

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return load_manifest(make_shards(tmp_path_factory.mktemp("data"), [13, 1, 20, 9, 16, 11]), "train")


def digest(batches: list[dict]) -> list:
    """Everything in the batches, comparable."""
    return [
        {key: value.tolist() if isinstance(value, torch.Tensor) else value for key, value in batch.items()}
        for batch in batches
    ]


def samples_of(batches: list[dict]) -> list[int]:
    return [sample for batch in batches for sample in batch["sample"].tolist()]


def test_batches(shards: Manifest) -> None:
    loader = train_loader(shards, global_batch=12, micro_batch=3)
    assert (loader.steps_per_epoch, loader.accumulation, loader.fingerprint()["streams"]) == (5, 4, 12)
    batches = list(loader.iterate(4, 7))
    assert len(batches) == 3 * 4
    for batch in batches:
        assert batch["image"].shape == (3, 3, 4, 4)
        assert batch["image"].dtype == torch.uint8
        assert all(batch[key].dtype == torch.int64 for key in ("label", "sample", "position", "epoch"))
        assert [number_of(image) for image in batch["image"]] == batch["sample"].tolist()
        assert batch["label"].tolist() == [sample % CLASSES for sample in batch["sample"].tolist()]
        assert (batch["bad"], batch["bad_keys"]) == (0, [])
    assert torch.cat([batch["position"] for batch in batches]).tolist() == list(range(4 * 12, 7 * 12))
    assert torch.cat([batch["epoch"] for batch in batches]).tolist() == [0] * 12 + [1] * 24


def test_an_epoch_has_each_sample_once_and_a_pipeline_of_webdataset(shards: Manifest) -> None:
    loader = train_loader(shards, global_batch=10, micro_batch=5)
    for epoch in range(3):
        found = samples_of(list(loader.iterate(epoch * 7, (epoch + 1) * 7)))
        assert len(found) == len(set(found)) == 70


@pytest.mark.parametrize("case", range(30))
def test_any_ranks_micro_batches_and_kill_points_give_the_same_batches(tmp_path: Path, case: int) -> None:
    """30 random set-ups: global batches equal at world sizes 1, 2, 4, 8, and after a restart on another one."""
    generator = random.Random(case)
    sizes = [generator.randrange(1, 20) for _ in range(generator.randrange(1, 7))]
    streams = generator.choice([8, 16, 24])
    global_batch = streams * generator.choice([1, 2])
    sizes[0] += max(0, global_batch - sum(sizes))
    manifest = load_manifest(make_shards(tmp_path / "data", sizes), "train")
    options = {"streams": streams, "window_shards": generator.choice([0.2, 1, 4]), "seed": generator.randrange(2**32)}

    def run(world: int, start: int, stop: int) -> list[list[dict]]:
        """Global batches start..stop-1 as the ranks together see them, sample by sample."""
        micro = generator.choice([d for d in (1, 2, 4) if global_batch // world % d == 0])
        batches: list[list[dict]] = [[] for _ in range(start, stop)]
        for rank in range(world):
            loader = train_loader(
                manifest, global_batch=global_batch, micro_batch=micro, rank=rank, world_size=world, **options
            )
            for number, batch in enumerate(loader.iterate(start, stop)):
                keys = ("image", "label", "sample", "position", "epoch")
                rows = zip(*(batch[key].tolist() for key in keys), strict=True)
                batches[number // loader.accumulation] += rows
        return batches

    stop = 2 * (sum(sizes) // global_batch) + 1
    kill = generator.randrange(stop)
    unbroken = run(1, 0, stop)
    assert [row[3] for batch in unbroken for row in batch] == list(range(stop * global_batch))
    for world in (2, 4, 8):
        assert run(world, 0, stop) == unbroken
    before, after = generator.choice([1, 2, 4, 8]), generator.choice([1, 2, 4, 8])
    assert run(before, 0, kill) + run(after, kill, stop) == unbroken


def test_pixels_are_the_same_for_any_number_of_workers(shards: Manifest) -> None:
    """Bit for bit, from the middle of an epoch over the next one's beginning."""
    reference = digest(list(train_loader(shards, global_batch=14, micro_batch=7).iterate(3, 9)))
    assert len({str(batch["image"]) for batch in reference}) == len(reference)
    for workers in (1, 2, 3):
        loader = train_loader(shards, global_batch=14, micro_batch=7, workers=workers, prefetch=2)
        assert digest(list(loader.iterate(3, 9))) == reference


def test_augmentation_differs_by_epoch_and_seed(shards: Manifest) -> None:
    def pixels(epoch: int, seed: int) -> dict[int, list]:
        loader = train_loader(shards, global_batch=70, micro_batch=70, seed=seed)
        (batch,) = loader.iterate(epoch, epoch + 1)
        return dict(zip(batch["sample"].tolist(), batch["image"].tolist(), strict=True))

    first, next_epoch, other_seed = pixels(0, 0), pixels(1, 0), pixels(0, 1)
    assert all(first[sample] != next_epoch[sample] != other_seed[sample] for sample in range(70))


def test_decoding_in_the_training_process_leaves_its_random_numbers_alone(shards: Manifest) -> None:
    def draws(load: bool) -> list[float]:
        random.seed(1)
        np.random.seed(1)  # noqa: NPY002
        torch.manual_seed(1)
        if load:
            list(train_loader(shards, global_batch=14, micro_batch=7).iterate(0, 1))
        return [random.random(), float(np.random.rand()), float(torch.rand(()))]  # noqa: NPY002

    assert draws(load=True) == draws(load=False)


@pytest.mark.parametrize("workers", [0, 2])
def test_stopping_early_and_starting_again(shards: Manifest, workers: int) -> None:
    loader = train_loader(shards, global_batch=14, micro_batch=7, workers=workers)
    whole = digest(list(loader.iterate(0, 6)))
    part = loader.iterate(0, 6)
    assert digest(list(itertools.islice(part, 4))) == whole[:4]
    part.close()
    state = json.loads(json.dumps(loader.state_dict(2)))
    resumed = train_loader(shards, global_batch=14, micro_batch=2, rank=0, world_size=1)
    resumed.load_state_dict(state)
    assert resumed.next_batch == 2
    assert samples_of(list(resumed.iterate(resumed.next_batch, 6))) == [s for b in whole[4:] for s in b["sample"]]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 5}, r"seed 0 -> 5"),
        ({"global_batch": 28}, r"global_batch 14 -> 28, streams 14 -> 28"),
        ({"window_shards": 1}, r"window 47 -> 12"),
        ({"streams": 2}, r"streams 14 -> 2"),
    ],
)
def test_another_order_is_refused(shards: Manifest, changes: dict, message: str) -> None:
    state = train_loader(shards, global_batch=14, micro_batch=7).state_dict(3)
    changed = train_loader(shards, **{"global_batch": 14, "micro_batch": 7, **changes})
    with pytest.raises(UserError, match=message) as error:
        changed.load_state_dict(state)
    assert "\n" not in str(error.value)


def test_other_shards_are_refused_other_workers_are_not(shards: Manifest, tmp_path: Path) -> None:
    loader = train_loader(shards, global_batch=14, micro_batch=7)
    state = loader.state_dict(3)
    train_loader(shards, global_batch=14, micro_batch=1, workers=3, world_size=7, rank=2).load_state_dict(state)
    other = load_manifest(make_shards(tmp_path / "data", [30, 40]), "train")
    with pytest.raises(UserError, match=r"manifest .* -> "):
        train_loader(other, global_batch=14, micro_batch=7).load_state_dict(state)


def test_replaced_shards_without_a_manifest_are_noticed(tmp_path: Path) -> None:
    """Other images of the same sizes and labels, under the same names; a checkpoint from before this was known goes on."""
    folder = make_shards(tmp_path / "a", [20])

    def loader(**options: object) -> TrainLoader:
        return train_loader(folder, global_batch=4, micro_batch=4, **options)

    state = loader().state_dict(2)
    content = state["fingerprint"].pop("content")
    assert isinstance(content, str)
    earlier = json.loads(json.dumps(state))
    state["fingerprint"]["content"] = content
    loader().load_state_dict(state)
    (folder / ".train.index").unlink()
    loader().load_state_dict(state)
    data = bytearray((folder / "shard-0000.tar").read_bytes())
    data[BLOCK + 30] ^= 1
    (folder / "shard-0000.tar").write_bytes(data)
    with pytest.raises(UserError, match=rf"\(content {content[:12]}\.\.\. -> .*data\.allow_changed=true"):
        loader().load_state_dict(state)
    loader(allow_changed=True).load_state_dict(state)
    resumed = loader()
    resumed.load_state_dict(earlier)
    assert resumed.next_batch == 2


def test_changes_that_are_allowed_begin_a_new_epoch(shards: Manifest, tmp_path: Path) -> None:
    """5 batches an epoch, then 3 of other shards: the run's batches 7.. are those of the new epoch 2, and so on after resume."""
    state = train_loader(shards, global_batch=14, micro_batch=7).state_dict(7)
    other = load_manifest(make_shards(tmp_path / "data", [20, 25]), "train")
    changed = train_loader(other, global_batch=14, micro_batch=7, allow_changed=True)
    changed.load_state_dict(state)
    assert changed.next_batch == 7
    batches = list(changed.iterate(7, 13))
    assert samples_of(batches) == samples_of(list(train_loader(other, global_batch=14, micro_batch=7).iterate(6, 12)))
    again = train_loader(other, global_batch=14, micro_batch=7)
    again.load_state_dict(json.loads(json.dumps(changed.state_dict(9))))
    assert digest(list(again.iterate(9, 13))) == digest(batches[4:])


def test_changed_augmentation_is_named() -> None:
    old, new = (
        {"augment": {"mixup": 0.0, "ratio": [1, 2]}, "seed": 0},
        {"augment": {"mixup": 0.8, "ratio": [1, 2]}, "seed": 0},
    )
    assert changes(old, new) == ["augment.mixup 0.0 -> 0.8"]


def test_setting_that_an_older_version_did_not_have_is_unset_there() -> None:
    old, new = {"augment": {"mixup": 0.0}}, {"augment": {"mixup": 0.0, "later": None}}
    assert changes(old, new) == changes(new, old) == []
    assert changes(old, {"augment": {"mixup": 0.0, "later": 1}, "seed": 0}) == [
        "augment.later None -> 1",
        "seed None -> 0",
    ]


def test_order_does_not_depend_on_how_validation_crops(shards: Manifest) -> None:
    """Runs from before ``augment.crop_mode`` go on: nothing of it is in what a checkpoint says of the order."""
    from sar_dist.config import RunConfig
    from sar_dist.training.setup import build_train_loader

    values = {
        "run": {"name": "x"},
        "data": {"workers": 0},
        "optim": {"global_batch": 8, "lr": 0.1},
        "engine": {"micro_batch": 8},
    }
    states = []
    for mode in ("center", "squash"):
        config = RunConfig.model_validate({**values, "augment": {"crop_mode": mode}})
        states.append(build_train_loader(config, config.data, shards, 0, 1).state_dict(0))
    assert states[0] == states[1]
    assert "crop_fraction" in json.dumps(states[0])
    assert "crop_mode" not in json.dumps(states[0])
    config = RunConfig.model_validate({**values, "augment": {"where": "worker"}})
    assert build_train_loader(config, config.data, shards, 0, 1).state_dict(0) == states[0]


def test_batches_hold_what_the_device_does_for_any_workers(shards: Manifest) -> None:
    """The same images and draws as without a plan, and the same plans from any number of worker processes."""
    draw = build_operation_draw(AugmentSettings(rand_augment="rand-m9-mstd0.5-inc1"), 4)

    def batches(workers: int) -> list[dict]:
        loader = train_loader(
            shards, global_batch=14, micro_batch=7, workers=workers, later=(draw, Canvas("bicubic", (1, 2, 3)))
        )
        return list(loader.iterate(3, 7))

    found = batches(0)
    assert digest(found) == digest(batches(2))
    plain = list(train_loader(shards, global_batch=14, micro_batch=7).iterate(3, 7))
    for batch, without in zip(found, plain, strict=True):
        assert torch.equal(batch["image"], without["image"])
        plan = batch["plan"]
        index, _, _, flips = plan.unpack(batch["operations"])
        assert plan.images == len(flips) == 7
        assert set(index.tolist()) <= set(range(7))
    assert len({str(batch["operations"].tolist()) for batch in found}) == len(found)
    assert found[0].keys() - plain[0].keys() == {"plan", "operations"}


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ({"global_batch": 15, "micro_batch": 7}, "not a multiple of engine.micro_batch=7 x 1"),
        ({"global_batch": 16, "micro_batch": 8, "streams": 3}, "valid: 1, 2, 4, 8, 16"),
        ({"global_batch": 71, "micro_batch": 71}, "70 samples, fewer than one global batch of 71"),
    ],
)
def test_impossible_numbers(shards: Manifest, numbers: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        train_loader(shards, **numbers)


def validation(manifest: Manifest, world: int, micro_batch: int, workers: int = 0) -> list[list[dict]]:
    """The batches of all ranks."""
    return [
        list(
            ValidationLoader(
                manifest,
                data=DataSettings(workers=workers),
                transform=random_transform,
                micro_batch=micro_batch,
                rank=rank,
                world_size=world,
                num_classes=CLASSES,
            ).iterate()
        )
        for rank in range(world)
    ]


@pytest.mark.parametrize("sizes", [[1] * 64, [3] * 63 + [7], [101]], ids=["64 shards", "64 uneven shards", "1 shard"])
@pytest.mark.parametrize("world", [1, 2, 3, 7])
def test_validation_sees_every_sample_exactly_once(tmp_path: Path, sizes: list[int], world: int) -> None:
    manifest = load_manifest(make_shards(tmp_path / "data", sizes), "val")
    for micro_batch in (1, 5, 64):
        ranks = validation(manifest, world, micro_batch)
        assert len({len(batches) for batches in ranks}) == 1
        found = []
        for batch in itertools.chain.from_iterable(ranks):
            assert batch["image"].shape == (micro_batch, 3, 4, 4)
            for image, label, valid, sample in zip(
                batch["image"], batch["label"].tolist(), batch["valid"].tolist(), batch["sample"].tolist(), strict=True
            ):
                assert valid == (sample >= 0)
                if valid:
                    assert (number_of(image), label) == (sample, sample % CLASSES)
                    found.append(sample)
        assert sorted(found) == list(range(sum(sizes)))


def test_validation_is_the_same_with_workers(shards: Manifest) -> None:
    assert digest(validation(shards, 2, 9)[1]) == digest(validation(shards, 2, 9, workers=2)[1])


@pytest.mark.skipif(not REAL_DATA.is_dir(), reason="the real images are not on this machine")
def test_real_images_through_the_real_transform(tmp_path: Path) -> None:
    from sar_dist.data import TrainLoader
    from sar_dist.data.images.augment import build_train_transform

    files = sorted((REAL_DATA / "imagenet_samples").glob("*/*.JPEG"))[:24]
    members = [
        pair for i, file in enumerate(files) for pair in ((f"k{i}.jpg", file.read_bytes()), (f"k{i}.cls", b"%d" % i))
    ]
    (tmp_path / "train.tar").write_bytes(tar_bytes(members))
    manifest = load_manifest(tmp_path, "train")
    results = []
    for workers in (0, 2):
        loader = TrainLoader(
            manifest,
            data=DataSettings(workers=workers),
            transform=build_train_transform(AugmentSettings(rand_augment="rand-m9-mstd0.5-inc1"), 64, 10**8),
            global_batch=8,
            micro_batch=4,
            rank=0,
            world_size=1,
            seed=0,
            num_classes=1000,
        )
        results.append(digest(list(loader.iterate(0, 6))))
    assert results[0] == results[1]
    assert results[0][0]["image"] != results[0][1]["image"]


def test_more_members_and_shard_bytes_do_not_matter(tmp_path: Path) -> None:
    """Members besides image and label, here a mask and a description, are passed over."""
    members = [
        m
        for i in range(9)
        for m in (*sample_members(i), (f"s{i:06d}.mask.png", image_of(99)), (f"s{i:06d}.json", b"{}"))
    ]
    (tmp_path / "a.tar").write_bytes(tar_bytes(members))
    loader = train_loader(tmp_path, global_batch=9, micro_batch=9)
    (batch,) = loader.iterate(0, 1)
    assert sorted(number_of(image) for image in batch["image"]) == list(range(9))
