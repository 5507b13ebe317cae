"""The memory in which workers hand over batches: a slot is written again only when nobody can see it any more."""

from __future__ import annotations

import gc
import os
import pickle
from multiprocessing import get_context
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

import pytest
import torch
from shard_factory import make_shards, train_loader
from torch import Tensor

from sar_dist.data import batch_memory
from sar_dist.data.batch_memory import BatchMemory, WorkerSlots, _ByValue, _InSlot, as_message, empty_batch

SHAPE = (2, 3, 5, 5)


class Owner:
    """What keeps the memory."""


@pytest.fixture
def owner() -> Owner:
    return Owner()


@pytest.fixture
def slots(owner: Owner, monkeypatch: pytest.MonkeyPatch) -> WorkerSlots:
    """Two slots, used by this process as worker and parent."""
    memory = BatchMemory(workers=2, slots=2)
    memory.keep_for(owner)
    slots = WorkerSlots(memory, worker=1)
    monkeypatch.setattr(batch_memory, "_slots_of_this_worker", slots)
    return slots


def received(batch: dict[str, Any]) -> dict[str, Any]:
    return dict(pickle.loads(bytes(ForkingPickler.dumps(as_message(batch)))))


def sent_batch(value: int) -> Tensor:
    image = empty_batch(SHAPE)
    image.fill_(value)
    return image


def test_what_arrives_is_what_was_sent(slots: WorkerSlots) -> None:
    label = torch.arange(4)
    message = as_message({"image": sent_batch(7), "label": label, "bad": 1, "bad_keys": ["a"]})
    assert (type(message["image"]), type(message["label"])) == (_InSlot, _ByValue)
    batch = received({"image": sent_batch(7), "label": label, "bad": 1, "bad_keys": ["a"]})
    assert batch["image"].shape == SHAPE
    assert (batch["image"] == 7).all()
    batch["label"] += 1  # a tensor like any other
    assert (batch["label"].tolist(), batch["label"].dtype, batch["bad"], batch["bad_keys"]) == (
        [1, 2, 3, 4],
        torch.int64,
        1,
        ["a"],
    )
    assert label.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("keep", [lambda image: image, lambda image: image[1:, 0], lambda image: image.numpy()])
def test_a_slot_is_free_when_the_last_view_of_it_is_gone(slots: WorkerSlots, keep: Any) -> None:
    kept = [keep(received({"image": sent_batch(value)})["image"]) for value in (1, 2)]
    assert slots.empty(SHAPE) is None
    other = received({"image": sent_batch(3)})["image"]  # as torch sends it
    assert [int(image.max()) for image in (*kept, other)] == [1, 2, 3]
    address = torch.as_tensor(kept[0]).data_ptr() // 4096
    del kept[0]
    gc.collect()
    fourth = received({"image": sent_batch(4)})["image"]
    assert (int(fourth.min()), int(kept[0].max()), int(other.max())) == (4, 2, 3)
    assert fourth.data_ptr() // 4096 == address, "the same pages again"


def test_a_process_that_is_forked_meanwhile_frees_nothing(slots: WorkerSlots) -> None:
    images = [received({"image": sent_batch(value)})["image"] for value in (1, 2)]

    def drop() -> None:
        images.clear()
        gc.collect()

    process = get_context("fork").Process(target=drop)
    process.start()
    process.join()
    assert (process.exitcode, slots.empty(SHAPE)) == (0, None)


def test_batches_of_another_size(slots: WorkerSlots) -> None:
    first = received({"image": sent_batch(1)})["image"]
    small = received({"image": empty_batch((1, 3, 5, 5)).fill_(2)})["image"]
    assert (small.shape, int(first.max()), int(small.max())) == ((1, 3, 5, 5), 1, 2)
    del small
    large = received({"image": empty_batch((9, 3, 64, 64)).fill_(3)})["image"]
    assert (int(large.sum()), int(first.max())) == (3 * large.numel(), 1)


def test_the_memory_goes_with_its_owner() -> None:
    before = len(os.listdir("/proc/self/fd"))
    owner = Owner()
    memory = BatchMemory(3, 2)
    memory.keep_for(owner)
    key = memory.key
    del memory
    assert (len(os.listdir("/proc/self/fd")), key in batch_memory._memories) == (before + 3, True)
    del owner
    gc.collect()
    assert (len(os.listdir("/proc/self/fd")), key in batch_memory._memories) == (before, False)


@pytest.mark.parametrize("count", [1, 12])
def test_batches_that_are_kept_stay_what_they_were(tmp_path: Path, count: int) -> None:
    """Through real workers: as many batches held as you like, none overwritten by a later one."""
    data = make_shards(tmp_path, [20, 28])
    options = {"global_batch": 4, "micro_batch": 4, "prefetch": 1}
    alone = list(train_loader(data, **options).iterate(0, 36))
    held: list[Tensor] = []
    with_workers = train_loader(data, workers=2, **options).iterate(0, 36)
    for expected, batch in zip(alone, with_workers, strict=True):
        held = [*held, batch["image"]][-count:]
        begin = int(expected["position"][0]) // 4 - len(held) + 1
        for image, old in zip(held, alone[begin:], strict=False):
            assert torch.equal(image, old["image"])
        assert all(torch.equal(expected[key], batch[key]) for key in ("label", "sample", "position", "epoch"))
