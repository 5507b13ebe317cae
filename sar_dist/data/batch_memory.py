"""Memory in which data workers hand batches to the training process: written once, and used again.

A worker writes each batch of images into a slot of memory that it shares with its parent, and sends no more than the slot's
number. The parent's tensor lies in the slot, and when its last reference is gone, views included, the slot is free for
another batch. So after the first few batches no page is new: to hand out fresh shared memory for each batch costs the
kernel more time than reading the images does. A worker that finds all its slots in use sends the batch as torch does.

The memory is that of a file without a name (memfd), hence none of /dev/shm, and gone with the last process that has it.
"""

from __future__ import annotations

import itertools
import math
import mmap
import os
import weakref
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from sar_dist.data.pinned_memory import RegisteredMapping

# A byte for each slot at the beginning of a worker's memory: 0 free, 1 in use. The worker sets it, the parent clears it.
_FLAGS = mmap.PAGESIZE
_FREE, _USED = b"\0", b"\1"
# Tensors up to this size travel inside the message: labels, and what is to be done to a few hundred images.
_MESSAGE_BYTES = 1 << 18

_keys = itertools.count()
_memories: weakref.WeakValueDictionary[int, BatchMemory] = weakref.WeakValueDictionary()
_slots_of_this_worker: WorkerSlots | None = None


class BatchMemory:
    """Slots for the workers of one loader, made before they are forked. Messages of the workers can be read while it exists.

    Args:
        workers: number of the workers.
        slots: batches of a worker that may exist at the same time.
        registered: a GPU copies from the slots; see ``RegisteredMapping`` for what that asks of the caller.
    """

    def __init__(self, workers: int, slots: int, *, registered: bool = False) -> None:
        if not 0 < slots <= _FLAGS:
            raise ValueError(f"{slots} slots, expected 1 to {_FLAGS}")
        self.slots = slots
        self.key = next(_keys)
        self._files = [os.memfd_create(f"batches of worker {worker}") for worker in range(workers)]
        self._registered = registered
        self._mapped: dict[int, _Mapping | RegisteredMapping] = {}
        _memories[self.key] = self
        weakref.finalize(self, _close, self._files).atexit = False

    def keep_for(self, owner: object) -> None:
        """Exist at least as long as ``owner`` does."""
        weakref.finalize(owner, self._outlive).atexit = False

    def _outlive(self) -> None:
        """The owner is gone, and with its finalizer the reference to this memory."""

    def file_of(self, worker: int) -> int:
        """Descriptor of a worker's memory, to be mapped by that worker."""
        return self._files[worker]

    def tensor(self, worker: int, slot: int, slot_bytes: int, shape: Sequence[int]) -> Tensor:
        """The uint8 batch (*shape) in a slot; once nothing refers to its storage any more the slot is free."""
        if worker not in self._mapped:
            memory = mmap.mmap(self._files[worker], _FLAGS + self.slots * slot_bytes)
            self._mapped[worker] = RegisteredMapping(memory) if self._registered else _Mapping(memory)
        mapping = self._mapped[worker]
        # torch holds on to this very object until the storage is freed.
        array = np.frombuffer(mapping.memory, np.uint8, math.prod(shape), _FLAGS + slot * slot_bytes)
        weakref.finalize(array, _release, os.getpid(), mapping, slot).atexit = False
        return torch.from_numpy(array).view(*shape)


def _close(files: list[int]) -> None:
    for file in files:
        os.close(file)


class _Mapping(NamedTuple):
    memory: mmap.mmap


def _release(owner: int, mapping: _Mapping | RegisteredMapping, slot: int) -> None:
    # A process that is forked meanwhile has the object too, and no say.
    if os.getpid() == owner:
        mapping.memory[slot : slot + 1] = _FREE


class WorkerSlots:
    """The slots of this worker. Their size is that of the first batch, or the room asked for then, rounded up to pages."""

    def __init__(self, memory: BatchMemory, worker: int) -> None:
        self._key = memory.key
        self._worker = worker
        self._file = memory.file_of(worker)
        self._count = memory.slots
        self._memory: mmap.mmap | None = None
        self._slot_bytes = 0
        self._tensors: list[Tensor] = []

    def empty(self, shape: Sequence[int], room: int = 0) -> Tensor | None:
        """An uninitialised uint8 tensor (*shape) in a free slot; None: there is none, or it is too small.

        ``room`` is how many bytes later ones may need.
        """
        count = math.prod(shape)
        memory = self._memory or self._map(max(count, room))
        slot = memory.find(_FREE, 0, self._count)
        if slot < 0 or not 0 < count <= self._slot_bytes:
            return None
        memory[slot : slot + 1] = _USED
        return self._tensors[slot][:count].view(*shape)

    def _map(self, count: int) -> mmap.mmap:
        self._slot_bytes = -(-count // mmap.PAGESIZE) * mmap.PAGESIZE
        size = _FLAGS + self._count * self._slot_bytes
        os.ftruncate(self._file, size)
        self._memory = mmap.mmap(self._file, size)
        pixels = np.frombuffer(self._memory, np.uint8, offset=_FLAGS)
        self._tensors = list(torch.from_numpy(pixels).split(self._slot_bytes))
        return self._memory

    def message(self, value: Tensor) -> _InSlot | None:
        """What to send instead of a tensor that ``empty`` gave; None for others."""
        start = value.data_ptr()
        slot = next((n for n, tensor in enumerate(self._tensors) if tensor.data_ptr() == start), None)
        if slot is None or value.dtype != torch.uint8 or not value.is_contiguous():
            return None
        return _InSlot(self._key, self._worker, slot, self._slot_bytes, tuple(value.shape))


class _InSlot:
    """Arrives in the parent as the tensor in the slot."""

    def __init__(self, *place: Any) -> None:
        self._place = place

    def __reduce__(self) -> tuple[Callable[..., Tensor], tuple[Any, ...]]:
        return _from_slot, self._place


class _ByValue:
    """Arrives in the parent as a tensor with a copy of the values."""

    def __init__(self, value: Tensor) -> None:
        self._array = value.numpy()

    def __reduce__(self) -> tuple[Callable[..., Tensor], tuple[Any, ...]]:
        return torch.from_numpy, (self._array,)


def _from_slot(key: int, worker: int, slot: int, slot_bytes: int, shape: tuple[int, ...]) -> Tensor:
    return _memories[key].tensor(worker, slot, slot_bytes, shape)


def use_slots(memory: BatchMemory, worker: int) -> None:
    """Call in a data worker before its first batch: ``empty_batch`` takes slots of ``memory`` from now on."""
    global _slots_of_this_worker
    _slots_of_this_worker = WorkerSlots(memory, worker)


def empty_batch(shape: Sequence[int], room: int = 0) -> Tensor:
    """An uninitialised uint8 tensor (*shape), in a data worker where the parent will find it.

    ``room`` is how many bytes a later batch of this worker may need, where that is more.
    """
    slots = _slots_of_this_worker
    found = None if slots is None else slots.empty(shape, room)
    return torch.empty(*shape, dtype=torch.uint8) if found is None else found


def as_message(batch: Any) -> Any:
    """A batch as a data worker sends it; elsewhere, and if it is no dictionary, as it is."""
    slots = _slots_of_this_worker
    if slots is None or not isinstance(batch, dict):
        return batch
    return {key: _sent(value, slots) if isinstance(value, Tensor) else value for key, value in batch.items()}


def _sent(value: Tensor, slots: WorkerSlots) -> Tensor | _InSlot | _ByValue:
    in_slot = slots.message(value)
    if in_slot is not None:
        return in_slot
    return _ByValue(value) if value.nbytes <= _MESSAGE_BYTES else value
