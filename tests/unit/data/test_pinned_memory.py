"""The workers' memory registered with a GPU's driver, for which a stand-in keeps the books. Not run on a GPU."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from enum import IntEnum
from multiprocessing import get_context
from pathlib import Path

import pytest
import torch
from shard_factory import make_shards, train_loader

from sar_dist.data import batch_memory, pinned_memory
from sar_dist.data import workers as data_workers
from sar_dist.data.batch_memory import BatchMemory, WorkerSlots

SHAPE = (2, 3, 5, 5)


class Outcome(IntEnum):
    """cudaError_t, as far as it is needed."""

    SUCCESS = 0
    MEMORY_ALLOCATION = 2


class CudaRuntime:
    """Registers what is mapped, and knows what is unregistered only after it was unmapped."""

    def __init__(self, outcome: Outcome = Outcome.SUCCESS) -> None:
        self.outcome = outcome
        self.registered: dict[int, int] = {}
        self.calls: list[str] = []

    def cudaHostRegister(self, address: int, size: int, flags: int) -> Outcome:
        assert is_mapped(address, size)
        assert flags == 0
        self.calls.append("register")
        if self.outcome is Outcome.SUCCESS:
            self.registered[address] = size
        return self.outcome

    def cudaHostUnregister(self, address: int) -> Outcome:
        # Called by a finalizer, whose exceptions would be lost.
        self.calls.append("unregister" if is_mapped(address, self.registered.pop(address)) else "too late")
        return Outcome.SUCCESS

    def cudaGetErrorString(self, problem: Outcome) -> str:
        return problem.name

    def covers(self, tensor: torch.Tensor) -> bool:
        begin, end = tensor.data_ptr(), tensor.data_ptr() + tensor.nbytes
        return any(address <= begin and end <= address + size for address, size in self.registered.items())


def is_mapped(address: int, size: int) -> bool:
    for line in Path("/proc/self/maps").read_text().splitlines():
        begin, end = (int(each, 16) for each in line.split()[0].split("-"))
        if begin <= address and address + size <= end and "batches of worker" in line:
            return True
    return False


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch) -> Iterator[CudaRuntime]:
    runtime = CudaRuntime()
    monkeypatch.setattr(torch.cuda, "cudart", lambda: runtime)
    pinned_memory._say_once.cache_clear()
    yield runtime
    gc.collect()


def sent(memory: BatchMemory, worker: int) -> torch.Tensor:
    """A batch of a worker as it arrives."""
    slots = WorkerSlots(memory, worker)
    batch = slots.empty(SHAPE)
    assert batch is not None
    message = slots.message(batch.fill_(worker + 1))
    assert message is not None
    rebuild, place = message.__reduce__()
    return rebuild(*place)


def test_each_worker_s_memory_is_registered_once_until_nothing_of_it_is_left(runtime: CudaRuntime) -> None:
    memory = BatchMemory(2, 2, registered=True)
    first, second, other = sent(memory, 0), sent(memory, 0), sent(memory, 1)
    assert runtime.calls == ["register"] * 2
    assert all(map(runtime.covers, (first, second, other)))
    kept = first[1:, 0]
    del memory, first, second, other
    gc.collect()
    assert runtime.calls == ["register", "register", "unregister"], "of the other worker"
    assert runtime.covers(kept)
    assert kept.tolist() == [[[1] * 5] * 5]
    del kept
    gc.collect()
    assert runtime.calls == ["register", "register", "unregister", "unregister"]
    assert runtime.registered == {}


def test_without_a_gpu_nothing_is_registered(runtime: CudaRuntime) -> None:
    memory = BatchMemory(1, 2)
    assert sent(memory, 0).max() == 1
    assert runtime.calls == []


def test_memory_that_cannot_be_registered_serves_as_it_is_and_that_is_said_once(
    runtime: CudaRuntime, capsys: pytest.CaptureFixture
) -> None:
    runtime.outcome = Outcome.MEMORY_ALLOCATION
    memory = BatchMemory(2, 2, registered=True)
    assert [int(sent(memory, worker).max()) for worker in (0, 1)] == [1, 2]
    assert capsys.readouterr().err == (
        "warning: the memory of the data workers cannot be registered with the GPU (MEMORY_ALLOCATION); "
        "each batch is copied into pinned memory first\n"
    )
    del memory
    gc.collect()
    assert runtime.calls == ["register"] * 2, "and nothing is unregistered"


def test_a_process_that_is_forked_meanwhile_unregisters_nothing(runtime: CudaRuntime) -> None:
    memory = [BatchMemory(1, 2, registered=True)]
    batch = [sent(memory[0], 0)]

    def drop() -> None:
        batch.clear()
        memory.clear()
        gc.collect()
        assert runtime.calls == ["register"]

    process = get_context("fork").Process(target=drop)
    process.start()
    process.join()
    assert process.exitcode == 0
    assert runtime.covers(batch[0])


@pytest.mark.filterwarnings("ignore:'pin_memory' argument")
@pytest.mark.parametrize("registered", [True, False])
def test_batches_of_real_workers(
    runtime: CudaRuntime, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, registered: bool
) -> None:
    monkeypatch.setattr(data_workers, "uses_cuda", lambda: True)
    data = make_shards(tmp_path, [20, 28])
    alone = list(train_loader(data, global_batch=4, micro_batch=4).iterate(0, 12))
    loader = train_loader(data, global_batch=4, micro_batch=4, workers=2)
    batches = loader.iterate(0, 12, registered=registered)
    for expected, batch in zip(alone, batches, strict=True):
        assert torch.equal(expected["image"], batch["image"])
        assert runtime.covers(batch["image"]) == registered
    del batch, batches, loader
    gc.collect()
    assert sorted(runtime.calls) == sorted(["register", "unregister"] * 2 * registered)
    assert not batch_memory._memories
