"""Several training sets: exact shares in every window, the same batches for any ranks and interruptions, labels by name."""

from __future__ import annotations

import json
import random
from collections import Counter
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shard_factory import CLASSES, make_shards, train_loader

from sar_dist.data import Manifest, TrainingSet, load_manifest, match_classes, set_names
from sar_dist.data.order import Mixture
from sar_dist.errors import UserError

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")
SIZES = ([13, 1, 20, 9, 16, 11], [7, 12])


def sets_of(folder: Path, *sizes: list[int], weights: tuple[int, ...] = (3, 1)) -> list[TrainingSet]:
    return [
        TrainingSet(load_manifest(make_shards(folder / f"set{i}", size), "train"), f"set{i}", Fraction(weight))
        for i, (size, weight) in enumerate(zip(sizes, weights, strict=True))
    ]


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> list[TrainingSet]:
    return sets_of(tmp_path_factory.mktemp("data"), *SIZES)


def rows(sets: list[TrainingSet], start: int, stop: int, world: int = 1, micro: int = 4, **options: object) -> list:
    """(sample, position, epoch, label, pixels) of global batches start..stop-1, as the ranks together see them."""
    batches: list[list[tuple]] = [[] for _ in range(start, stop)]
    for rank in range(world):
        loader = train_loader(sets, micro_batch=micro, rank=rank, world_size=world, **options)
        for number, batch in enumerate(loader.iterate(start, stop)):
            columns = (batch[key].tolist() for key in ("sample", "position", "epoch", "label", "image"))
            found = list(zip(*columns, strict=True))
            assert sum(batch["by_set"].values()) == len(found)
            batches[number // loader.accumulation] += found
    return batches


@given(st.lists(st.integers(1, 10**6) | st.fractions(Fraction(1, 100), 100), min_size=1, max_size=7))
@settings(max_examples=60, deadline=None)
def test_every_window_has_its_share_of_every_set(weights: list[Fraction]) -> None:
    """Two sets: within one sample. The worst window is the one between a prefix with too many and one with too few."""
    mixture, length = Mixture(weights), 400
    turns = [mixture.at(position) for position in range(length)]
    for number, share in enumerate(mixture.shares):
        assert share == Fraction(weights[number]) / sum(map(Fraction, weights))
        assert [count for which, count in turns if which == number] == list(range(mixture.counts(length)[number]))
        errors = [mixture.counts(n)[number] - n * share for n in range(length + 1)]
        allowed = 1 if len(weights) == 2 else 2 if len(weights) == 3 else 3
        assert max(errors) - min(errors) < allowed


def test_three_to_one(mixed: list[TrainingSet]) -> None:
    """Of any window of the batches laid end to end; each set's samples come as in its own epochs."""
    numbers = [row[0] >= 70 for batch in rows(mixed, 0, 40, global_batch=12) for row in batch]
    ends = np.concatenate([[0], np.cumsum(numbers)])
    for length in range(1, len(numbers)):
        counts = ends[length:] - ends[:-length]
        assert np.abs(counts - length / 4).max() < 1
    for number, (batch, size) in enumerate([(9, 70), (3, 19)]):
        found = [row for one in rows(mixed, 0, 40, global_batch=12) for row in one if (row[0] >= 70) == number]
        alone = train_loader(mixed[number].manifest, global_batch=batch, micro_batch=batch)
        expected = list(alone.iterate(0, -(-len(found) // batch)))
        samples = [sample for b in expected for sample in b["sample"].tolist()][: len(found)]
        epochs = [epoch for b in expected for epoch in b["epoch"].tolist()][: len(found)]
        assert [row[0] - 70 * number for row in found] == samples
        assert [row[2] for row in found] == epochs
        assert max(epochs) >= 4
        assert len(found) // size >= 4


@pytest.mark.parametrize("case", range(6))
def test_any_ranks_micro_batches_and_kill_points_give_the_same_batches(tmp_path: Path, case: int) -> None:
    """Killed and resumed on another number of ranks: the samples, random numbers and pixels of the unbroken run."""
    generator = random.Random(case)
    count = generator.choice([2, 2, 3])
    sizes = [[generator.randrange(1, 20) for _ in range(generator.randrange(1, 5))] for _ in range(count)]
    sets = sets_of(tmp_path, *sizes, weights=tuple(generator.randrange(1, 9) for _ in sizes))
    repeats = generator.choice([1, 1, 2])
    options = {
        "global_batch": repeats * generator.choice([8, 16, 24]),
        "repeated_augmentation": repeats,
        "streams": generator.choice([None, 1, 3, 8]),
        "window_shards": generator.choice([0.2, 1, 4]),
        "seed": generator.randrange(2**32),
        "epoch_samples": 48,
    }
    stop = 12
    kill = generator.randrange(stop)

    def run(world: int, start: int, stop: int, **more: object) -> list[list[tuple]]:
        micro = generator.choice([d for d in (1, 2, 4) if options["global_batch"] // world % d == 0])
        return rows(sets, start, stop, world, micro, **options, **more)

    unbroken = run(1, 0, stop)
    assert [row[1] for batch in unbroken for row in batch] == list(range(stop * options["global_batch"]))
    for world in (2, 4, 8):
        assert run(world, 0, stop) == unbroken
    assert run(2, 0, stop, workers=2) == unbroken
    assert run(generator.choice([1, 2, 8]), 0, kill) + run(generator.choice([1, 4]), kill, stop) == unbroken


def test_copies_of_repeated_augmentation(mixed: list[TrainingSet]) -> None:
    """Both copies of a batch are the same samples in the same order, of different keys."""
    for batch in rows(mixed, 0, 30, global_batch=16, repeated_augmentation=2):
        first, second = batch[:8], batch[8:]
        assert [row[0] for row in first] == [row[0] for row in second]
        assert [row[2] + 1 for row in first] == [row[2] for row in second]
        assert sum(row[0] >= 70 for row in first) == 2


def test_a_set_smaller_than_its_part_of_a_batch_comes_round_within_it(tmp_path: Path) -> None:
    sets = sets_of(tmp_path, [5], [40], weights=(1, 1))
    found = [row for batch in rows(sets, 0, 5, global_batch=16) for row in batch if row[0] < 5]
    assert len(found) == 5 * 8
    assert Counter(row[0] for row in found) == dict.fromkeys(range(5), 8)
    assert len({row[::2][:2] for row in found}) == 40  # no (sample, epoch) is there twice


def test_one_set_in_a_list_is_that_set(mixed: list[TrainingSet]) -> None:
    alone, listed = (
        train_loader(each, global_batch=14, micro_batch=7) for each in (mixed[0].manifest, [replace(mixed[0])])
    )
    assert alone.fingerprint() == listed.fingerprint()
    batches = [[batch["sample"].tolist() for batch in loader.iterate(3, 9)] for loader in (alone, listed)]
    assert batches[0] == batches[1]


def test_length_of_an_epoch(mixed: list[TrainingSet]) -> None:
    assert train_loader(mixed, global_batch=8, micro_batch=8).steps_per_epoch == 89 // 8
    assert train_loader(mixed, global_batch=8, micro_batch=8, epoch_samples=20).steps_per_epoch == 2
    assert train_loader(mixed[0].manifest, global_batch=8, micro_batch=8, epoch_samples=200).steps_per_epoch == 25


@pytest.mark.parametrize("number", [0, 1])
def test_a_bad_sample_is_replaced_from_its_own_set(tmp_path: Path, number: int) -> None:
    sets = sets_of(tmp_path, [24], [24], weights=(1, 1))
    shard = tmp_path / f"set{number}" / "shard-0000.tar"
    content = bytearray(shard.read_bytes())
    content[content.index(b"\x89PNG") + 3] = 0
    shard.write_bytes(content)
    (tmp_path / f"set{number}" / ".train.index").unlink()
    loader = train_loader(sets, global_batch=24, micro_batch=24, max_bad_fraction=1.0)
    batches = list(loader.iterate(0, 4))
    assert sum(batch["bad"] for batch in batches) == 2  # once in each of its passes
    assert all(f"set{number}/" in key for batch in batches for key in batch["bad_keys"])
    for batch in batches:
        assert sum(sample >= 24 for sample in batch["sample"].tolist()) == 12
        assert 24 * number not in batch["sample"].tolist()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weights": (2, 1)}, r"sets\.0\.part 6 -> 5, sets\.0\.share 3/4 -> 2/3"),
        ({"sizes": ([13, 1, 20, 9, 16, 11], [8, 12])}, r"samples 89 -> 90, sets\.1\.content .* sets\.1\.samples 19 -> 20"),
        ({"sizes": (*SIZES, [30]), "weights": (3, 1, 1)}, r"\(data sets 2 -> 3\)"),
        ({"sizes": SIZES[:1], "weights": (1,)}, r"\(data sets 2 -> 1\)"),
    ],
)  # fmt: skip
def test_another_mixture_is_refused(mixed: list[TrainingSet], tmp_path: Path, change: dict, message: str) -> None:
    loader = train_loader(mixed, global_batch=8, micro_batch=8)
    state = json.loads(json.dumps(loader.state_dict(30)))
    same = train_loader(sets_of(tmp_path / "same", *SIZES, weights=(6, 2)), global_batch=8, micro_batch=2)
    same.load_state_dict(state)
    changed = sets_of(tmp_path / "changed", *change.get("sizes", SIZES), weights=change.get("weights", (3, 1)))
    with pytest.raises(UserError, match=message) as error:
        train_loader(changed, global_batch=8, micro_batch=8).load_state_dict(state)
    assert "\n" not in str(error.value)

    # Allowed, no sample of the sets comes again in a pass, and so with random numbers, that it had already.
    before = {row[::2][:2] for batch in rows(mixed, 0, 30, global_batch=8) for row in batch}
    going_on = train_loader(changed, global_batch=8, micro_batch=8, allow_changed=True)
    going_on.load_state_dict(state)
    after = list(going_on.iterate(30, 40))
    assert not before & {pair for b in after for pair in zip(b["sample"].tolist(), b["epoch"].tolist(), strict=True)}
    again = train_loader(changed, global_batch=8, micro_batch=8)
    again.load_state_dict(json.loads(json.dumps(going_on.state_dict(34))))
    assert [b["sample"].tolist() for b in again.iterate(34, 40)] == [b["sample"].tolist() for b in after[4:]]


def named(root: str, *classes: str) -> Manifest:
    return Manifest(root, "train", classes or None, ())


def test_classes_are_matched_by_name() -> None:
    ours = named("A", "cat", "dog", "owl")
    assert match_classes("data.train.1", ours, named("B", "cat", "dog", "owl"), {}) is None
    assert match_classes("data.train.1", ours, named("B", "owl", "cat"), {}) == (2, 0)
    assert match_classes("data.train.1", ours, named("B", "owl", "tabby", "cat"), {"tabby": "cat"}) == (2, 0, 0)
    assert match_classes("data.train.1", ours, named("B", "class 0", "owl"), {}) == (-1, 2)  # a place that is not named
    assert match_classes("data.train.1", ours, named("B"), {}) is None
    assert match_classes("data.train.1", named("A"), ours, {}) is None


@pytest.mark.parametrize(
    ("ours", "theirs", "renamed", "message"),
    [
        (("cat", "dog"), ("dog", "emu", "yak"), {}, "2 of the 3 classes of B are not among the 2 of A, the first is 'emu'"),
        (("cat", "dog"), ("dog", "emu"), {"emu": "fowl"}, "the first is 'fowl'"),
        (("cat", "dog"), ("dog",), {"emu": "cat"}, "data.train.1.classes: B has no class 'emu'"),
        (("cat", "dog"), (), {"emu": "cat"}, "B does not name its classes; put a classes.json beside its shards"),
        (("crane", "crane", "dog"), ("dog", "crane"), {}, "A has several classes called 'crane'"),
    ],
)  # fmt: skip
def test_classes_that_cannot_be_matched(ours: tuple, theirs: tuple, renamed: dict, message: str) -> None:
    with pytest.raises(UserError) as error:
        match_classes("data.train.1", named("A", *ours), named("B", *theirs), renamed)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_labels_are_those_of_the_first_set(tmp_path: Path) -> None:
    """Label n of the second set is class 2 - n of the run, 3 is none, and those above are no classes of the set."""
    sets = sets_of(tmp_path, [21], [28], weights=(1, 1))
    sets[1] = replace(sets[1], classes=(2, 1, 0, -1))
    loader = train_loader(sets, global_batch=14, micro_batch=14, streams=1, max_bad_fraction=1.0)
    reasons: set[str] = set()
    for batch in loader.iterate(0, 8):
        reasons |= {key.partition(": ")[2] for key in batch["bad_keys"]}
        for sample, label in zip(batch["sample"].tolist(), batch["label"].tolist(), strict=True):
            own = (sample - 21 if sample >= 21 else sample) % CLASSES
            assert label == (own if sample < 21 else 2 - own)
    assert reasons == {f"label {label} is of no class of the run" for label in range(3, CLASSES)}


def test_names_of_sets() -> None:
    places = ["/data/in1k/train", "s3://bucket/in21k", "more/in1k", "/train", "my set.v2"]
    assert set_names(places) == ["in1k", "in21k", "in1k-3", "train", "my_set_v2"]
    assert set_names(["x/a-3", "y/a", "z/a"]) == ["a-3", "a", "a-4"]
