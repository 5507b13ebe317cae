"""Speed of training over each logging interval, from the host's clock alone: no device synchronisation, no events.

The host runs ahead of the device by a few steps at most, and reading the interval's metrics waits for the device, so
that over an interval both clocks agree. Take ``summary()`` right after reading the metrics.
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch

from sar_dist.observe.device_peak import DevicePeak

GIB = 1024**3


def peak_memory_gib(device: torch.device) -> float:
    """Peak memory of this process so far in GiB: allocated on a CUDA device, otherwise resident in host memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / GIB
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return resident * (1 if sys.platform == "darwin" else 1024) / GIB


class Throughput:
    """Counts images, steps and waiting time between two summaries.

    Args:
        global_batch: images in one optimizer step over all processes.
        flops_per_image: FLOPs of forward and backward on one image, without recomputation, such as
            ``FlopReport.training_flops``; by the side of the images where they are of several sizes; None leaves the
            utilisation out.
        device: where the model runs.
        peak: what the utilisation refers to; None leaves it out.
        world_size: processes that train together.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        global_batch: int,
        flops_per_image: float | Mapping[int, float] | None,
        device: torch.device,
        *,
        peak: DevicePeak | None = None,
        world_size: int = 1,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._global_batch = global_batch
        self._flops_per_image = flops_per_image
        self._device = device
        self._world_size = world_size
        self._clock = clock
        self._peak = peak
        self._warm = False
        self._begin()

    def _begin(self) -> None:
        self._start = self._clock()
        self._waited = 0.0
        self._paused = 0.0
        self._images = 0
        self._flops = 0.0
        self._steps = 0

    @contextmanager
    def waiting_for_data(self) -> Iterator[None]:
        """Count the time inside as waiting for data."""
        start = self._clock()
        try:
            yield
        finally:
            self._waited += self._clock() - start

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave the time inside (validation, checkpoints, figures) out of every figure."""
        start = self._clock()
        try:
            yield
        finally:
            self._paused += self._clock() - start

    def step_done(self, images: int | None = None, side: int | None = None) -> None:
        """Count one optimizer step on ``images`` images over all processes (None: the global batch), of ``side`` pixels.

        The first step only starts the clock: it compiles kernels, fills the allocator and waits for the first data.
        """
        images = self._global_batch if images is None else images
        self._images += images
        each = self._flops_per_image
        self._flops += images * (each[side or 0] if isinstance(each, Mapping) else each or 0.0)
        self._steps += 1
        if not self._warm:
            self._warm = True
            self._begin()

    def summary(self) -> dict[str, float]:
        """Figures since the last summary (the first time: since the end of the first step); a new interval begins.

        Returns:
            ``images_per_second`` over all processes; ``images_per_second_per_process``; ``step_seconds``, the mean;
            ``data_wait_share`` of the time, 0 to 1, on this process; ``peak_memory_gib`` of this process since it
            began; ``mfu``, model FLOPs utilisation: the FLOPs the model needs over those the devices could do at
            their peak, called ``mfu_of_matmul`` where the peak was measured by a matrix product, and left out where
            either is not known. Only ``peak_memory_gib`` if no step was done.
        """
        figures = {"peak_memory_gib": peak_memory_gib(self._device)}
        elapsed = self._clock() - self._start - self._paused
        if self._steps and elapsed > 0:
            per_process = self._images / elapsed / self._world_size
            figures["images_per_second"] = self._images / elapsed
            figures["images_per_second_per_process"] = per_process
            figures["step_seconds"] = elapsed / self._steps
            figures["data_wait_share"] = min(1.0, self._waited / elapsed)
            if self._peak is not None and self._peak.flops is not None and self._flops_per_image is not None:
                utilisation = self._flops / elapsed / self._world_size / self._peak.flops
                figures["mfu_of_matmul" if self._peak.measured else "mfu"] = utilisation
        self._begin()
        return figures
