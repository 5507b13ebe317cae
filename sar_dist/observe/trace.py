"""A trace of a few training steps by PyTorch's profiler, for Perfetto (ui.perfetto.dev) or TensorBoard."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch.profiler import ProfilerActivity, profile, record_function, schedule

from sar_dist.regions import observed_by

TRACE_SUFFIX = ".pt.trace.json.gz"  # by this ending TensorBoard's profiler plugin finds traces


class StepTrace:
    """Traces some optimizer steps after one that warms the profiler up, then hands the trace over.

    Args:
        steps: the traced steps, consecutive.
        device: on CUDA, kernels are traced too.
        write: takes a function that saves the trace under a path, and the first traced step. It is called once: after
            the last traced step, or by ``close`` if that comes before, and not at all if it comes before the first.
    """

    def __init__(self, steps: range, device: torch.device, write: Callable[[Callable[[str], None], int], None]) -> None:
        # On a machine without a GPU Kineto would report that as an error.
        os.environ.setdefault("KINETO_LOG_LEVEL", "5")
        activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (device.type == "cuda")
        self._left = len(steps) + 1
        self._profile: profile | None = profile(
            activities=activities,
            schedule=schedule(wait=0, warmup=1, active=len(steps), repeat=1),
            on_trace_ready=lambda finished: write(finished.export_chrome_trace, steps[0]),
        )
        self._profile.start()

    @contextmanager
    def step(self, number: int) -> Iterator[None]:
        """Trace the optimizer step inside, with all of its regions by their names."""
        with record_function(f"train_step {number}"), observed_by(record_function):
            yield

    def step_done(self) -> None:
        """Go on to the next step; after the last one, hand the trace over."""
        assert self._profile is not None, "the trace is over"
        self._profile.step()
        self._left -= 1
        if self._left == 0:
            self.close()

    def close(self) -> None:
        """Stop tracing, hand over what there is, and free the memory that it takes."""
        if self._profile is not None:
            self._profile.stop()
            self._profile = None
