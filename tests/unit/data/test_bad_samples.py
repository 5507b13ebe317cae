"""Samples that cannot be used: replaced and counted in training, counted as wrong in validation, and limited."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import pytest
from shard_factory import (
    CLASSES,
    image_of,
    make_shards,
    number_of,
    random_transform,
    sample_members,
    tar_bytes,
    train_loader,
)

from sar_dist.config import DataSettings
from sar_dist.data import ValidationLoader, load_manifest
from sar_dist.data.batching import MAX_SUBSTITUTES
from sar_dist.data.images.bad_samples import MINIMUM_SEEN, BadSamples
from sar_dist.errors import UserError

BAD = {
    3: [("s000003.jpg", image_of(3)[:30]), ("s000003.cls", b"3")],
    8: [("s000008.cls", b"1")],
    9: [("s000009.jpg", image_of(9)), ("s000009.cls", b"cat")],
    20: [("s000020.jpg", image_of(20)), ("s000020.cls", b"77")],
    21: [("s000021.jpg", b"not an image"), ("s000021.cls", b"0")],
}
REASONS = {3: "s000003: ", 8: "s000008: no image", 9: "s000009: no label", 20: "s000020: label 77", 21: "s000021: "}


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """30 samples, of which five are bad in as many ways."""
    folder = tmp_path_factory.mktemp("bad")
    members = itertools.chain.from_iterable(BAD.get(number, sample_members(number)) for number in range(30))
    (folder / "train-0.tar").write_bytes(tar_bytes(members))
    return folder


@pytest.mark.parametrize("workers", [0, 2])
def test_training_replaces_and_counts_them(shards: Path, workers: int) -> None:
    options = {"workers": workers, "max_bad_fraction": 0.01}
    clean = train_loader(make_shards(shards / "clean", [30]), global_batch=10, micro_batch=5)
    loader = train_loader(shards, global_batch=10, micro_batch=5, **options)
    assert loader.fingerprint()["streams"] == clean.fingerprint()["streams"]
    batches = list(loader.iterate(0, 3))
    planned = [sample for batch in clean.iterate(0, 3) for sample in batch["sample"].tolist()]
    served = [sample for batch in batches for sample in batch["sample"].tolist()]
    assert len(served) == 30
    assert [a for a, b in zip(planned, served, strict=True) if a != b] == [n for n in planned if n in BAD]
    assert not set(served) & set(BAD)
    for batch in batches:
        assert [number_of(image) for image in batch["image"]] == batch["sample"].tolist()
        assert batch["label"].tolist() == [sample % CLASSES for sample in batch["sample"].tolist()]
    assert sum(batch["bad"] for batch in batches) == 5
    assert (loader.bad_samples.seen, loader.bad_samples.bad) == (30, 5)
    for number, reason in REASONS.items():
        (key,) = {key for key in loader.bad_samples.keys if f"s{number:06d}" in key}
        assert key.startswith(str(shards / "train-0.tar"))
        assert reason in key


def test_substitutes_do_not_depend_on_ranks_or_workers(shards: Path) -> None:
    def served(world: int, workers: int) -> list[list[int]]:
        ranks = [
            train_loader(
                shards, global_batch=6, micro_batch=3, rank=r, world_size=world, workers=workers, max_bad_fraction=1
            )
            for r in range(world)
        ]
        runs = [list(rank.iterate(0, 5)) for rank in ranks]
        rows = [
            zip(b["position"].tolist(), b["sample"].tolist(), b["image"].tolist(), strict=True)
            for run in runs
            for b in run
        ]
        return sorted(itertools.chain.from_iterable(rows))

    assert served(1, 0) == served(2, 0) == served(2, 2)


@pytest.mark.parametrize("workers", [0, 2])
def test_too_many_end_the_run(shards: Path, workers: int) -> None:
    loader = train_loader(shards, global_batch=10, micro_batch=5, workers=workers, max_bad_fraction=0)
    with pytest.raises(
        UserError, match=r"1 of \d+ training samples could not be used, above data.max_bad_fraction=0; the last is"
    ):
        list(loader.iterate(0, 3))


def test_the_limit_is_one_over_all_starts(shards: Path, tmp_path: Path) -> None:
    """Stopped after two batches, before what is due after the second was done: that one is read again, and counted once."""
    sizes = {"global_batch": 10, "micro_batch": 5}
    first = train_loader(shards, max_bad_fraction=1, **sizes)
    list(first.iterate(0, 2))
    state, counted = first.state_dict(2), first.bad_samples.state_dict()
    second = train_loader(shards, max_bad_fraction=1, **sizes)
    second.load_state_dict(state, [counted])
    list(second.iterate(1, 3))
    assert second.bad_samples.state_dict() == {"seen": 30, "bad": 5}
    other = train_loader(make_shards(tmp_path, [30]), max_bad_fraction=1, allow_changed=True, **sizes)
    other.load_state_dict(state, [counted])
    assert other.bad_samples.state_dict() == {"seen": 0, "bad": 0}


def test_samples_are_counted_with_the_batch_that_is_used_and_not_with_those_ahead(shards: Path) -> None:
    """As a GPU takes them: a checkpoint after two of three batches, of which all are copied, is one of two batches."""
    sizes = {"global_batch": 10, "micro_batch": 5}
    first = train_loader(shards, max_bad_fraction=1, **sizes)
    ahead = first.iterate(0, 3, on_the_way=lambda batches: iter(list(batches)))
    used = [next(ahead), next(ahead)]
    counted = first.bad_samples.state_dict()
    assert counted == {"seen": 10, "bad": sum(batch["bad"] for batch in used)}
    second = train_loader(shards, max_bad_fraction=1, **sizes)
    second.load_state_dict(first.state_dict(1), [counted])
    list(second.iterate(1, 3))
    assert second.bad_samples.state_dict() == {"seen": 30, "bad": 5}


@pytest.mark.parametrize("workers", [0, 1])
def test_nothing_but_bad_samples(tmp_path: Path, workers: int) -> None:
    """Ends with one clear line, also from a worker, instead of searching for a substitute for ever."""
    members = [m for i in range(300) for m in ((f"s{i:06d}.jpg", b"x"), (f"s{i:06d}.cls", b"0"))]
    (tmp_path / "train-0.tar").write_bytes(tar_bytes(members))
    loader = train_loader(tmp_path, global_batch=2, micro_batch=2, workers=workers)
    with pytest.raises(UserError, match=f"^{MAX_SUBSTITUTES} samples in a row cannot be used") as error:
        list(loader.iterate(0, 1))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("workers", [0, 2])
def test_validation_keeps_them_as_wrong(shards: Path, workers: int) -> None:
    found: dict[int, tuple[bool, bool, int]] = {}
    keys = []
    for rank in range(2):
        loader = ValidationLoader(
            load_manifest(shards, "train"),
            data=DataSettings(workers=workers),
            transform=random_transform,
            micro_batch=4,
            rank=rank,
            world_size=2,
            num_classes=CLASSES,
        )
        for batch in loader.iterate():
            keys += batch["bad_keys"]
            rows = zip(
                *(batch[key].tolist() for key in ("sample", "valid", "bad", "label")), batch["image"], strict=True
            )
            for sample, valid, bad, label, image in rows:
                if valid:
                    found[sample] = (valid, bad, label)
                    assert bad == (int(image.sum()) == 0 and sample in BAD)
                else:
                    assert (sample, bad, label, int(image.sum())) == (-1, False, 0, 0)
    assert len(found) == 30
    assert {sample for sample, (_, bad, _) in found.items() if bad} == set(BAD)
    assert len(keys) == 5


def test_a_batch_of_bad_samples_alone(tmp_path: Path) -> None:
    (tmp_path / "val-0.tar").write_bytes(tar_bytes([("a.jpg", b"x"), ("a.cls", b"0")]))
    loader = ValidationLoader(
        load_manifest(tmp_path, "val"),
        data=DataSettings(workers=0),
        transform=random_transform,
        micro_batch=2,
        rank=0,
        world_size=1,
        num_classes=CLASSES,
    )
    (batch,) = loader.iterate()
    assert batch["image"].tolist() == [[[[0] * 4] * 4] * 3] * 2
    assert (batch["valid"].tolist(), batch["bad"].tolist()) == ([True, False], [True, False])


def test_limit() -> None:
    counts = BadSamples(0.001, "training")
    counts.add(64, 10, ["k"] * 10)
    with pytest.raises(UserError, match=re.escape("11 of 65 training samples could not be used")):
        counts.add(1, 1, ["k"])
    counts = BadSamples(0.001, "training")
    counts.add(MINIMUM_SEEN * 2, 20, ["a: x"] * 15 + ["b: y"] * 5)
    with pytest.raises(UserError):
        counts.add(900, 1, ["c: z"])


def test_list_of_bad_samples(capsys: pytest.CaptureFixture[str]) -> None:
    counts = BadSamples(1, "training")
    counts.add(10, 3, ["b: broken", "a: empty", "b: broken"])
    counts.add(100, 60, [f"k{i}: x" for i in range(60)])
    assert counts.keys.most_common(2) == [("b: broken", 2), ("a: empty", 1)]
    assert len(counts.keys) == 62
    logged = capsys.readouterr().err.splitlines()
    assert len(logged) == 21
    assert logged[0] == "bad training sample b: broken"
    assert logged[-1].endswith("further ones are only counted")
