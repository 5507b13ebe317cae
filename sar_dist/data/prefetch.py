"""Copying the next micro-batch to the GPU while the current step runs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from sar_dist.data.batching import Batch
from sar_dist.regions import region


class _Copying(NamedTuple):
    """A batch on its way: on the device, on the host, and the event at which the copy is done."""

    target: Batch
    source: Batch
    done: torch.cuda.Event


def prefetch_to_device(batches: Iterator[Batch], device: torch.device) -> Iterator[Batch]:
    """The same batches in the same order; on CUDA with their tensors on ``device``, copied one batch ahead.

    The copies run on a stream of their own, from pinned memory, beside the kernels of the step before. This costs the
    memory of one more micro-batch of uint8 pixels, and an error of ``batches`` is raised a batch early. On other devices
    the batches pass through unchanged.
    """
    return _prefetched(batches, device) if device.type == "cuda" else batches


def _prefetched(batches: Iterator[Batch], device: torch.device) -> Iterator[Batch]:
    stream = torch.cuda.Stream(device)
    following = _start_copy(next(batches, None), stream)
    try:
        while following is not None:
            ready, following = following, _start_copy(next(batches, None), stream)
            step = torch.cuda.current_stream(device)
            with region("host_to_device"):
                step.wait_event(ready.done)
            for value in ready.target.values():
                if isinstance(value, Tensor):
                    # Allocated on the copying stream, which must not reuse the memory before the step has done with it.
                    value.record_stream(step)
            try:
                yield ready.target
            finally:
                # The copy reads the source until then. It began a step ago, so that this does not wait in practice.
                ready.done.synchronize()
            del ready  # a worker may write the source again
    finally:
        if following is not None:
            following.done.synchronize()


def _start_copy(batch: Batch | None, stream: torch.cuda.Stream) -> _Copying | None:
    if batch is None:
        return None
    with torch.cuda.stream(stream):
        target = {
            key: value.to(stream.device, non_blocking=True) if isinstance(value, Tensor) else value
            for key, value in batch.items()
        }
        done = torch.cuda.Event()
        done.record(stream)
    return _Copying(target, batch, done)
