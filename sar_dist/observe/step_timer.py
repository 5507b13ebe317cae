"""Where the time of an optimizer step goes, measured on a few steps without waiting for the device.

On a GPU the borders of the regions are CUDA events on the stream of the step, read when metrics are logged. The times
are then those of the device: waiting for data, for example, is the time in which the device had nothing to do because
of it. On a CPU they are read from the host's clock.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch

from sar_dist.regions import observed_by

# The regions of a step, and "other" for what lies in none of them. They do not overlap, so that they sum to the step.
PARTS = (
    "data_wait",
    "host_to_device",
    "augmentation",
    "forward",
    "spatial_entropy",
    "terms",
    "backward",
    "optimizer",
    "communication",
    "other",
)
TOTAL = "total"
OVERLAPPED = "communication_overlapped"
MEASURED = (TOTAL, *PARTS, OVERLAPPED)


class Clock(Protocol):
    """A source of points in time on one or more streams of work."""

    def mark(self) -> Any:
        """The point that the current stream has reached."""

    def seconds(self, begin: Any, end: Any) -> float:
        """Seconds between two marks of one stream."""

    def stream(self) -> int:
        """Which stream ``mark`` would mark now."""


class HostClock:
    """The host's clock; its only stream is the program itself."""

    def mark(self) -> float:
        return time.perf_counter()

    def seconds(self, begin: float, end: float) -> float:
        return end - begin

    def stream(self) -> int:
        return 0


class CudaClock:
    """Events on the current CUDA stream. Reading them waits for the device, recording them does not."""

    def mark(self) -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def seconds(self, begin: torch.cuda.Event, end: torch.cuda.Event) -> float:
        end.synchronize()
        return begin.elapsed_time(end) / 1000

    def stream(self) -> int:
        return torch.cuda.current_stream().cuda_stream


@dataclass
class _Span:
    """A region that was entered: what it belongs to, when, and the regions inside it."""

    part: str
    begin: Any
    end: Any = None
    inner: list[_Span] = field(default_factory=list)


@dataclass
class _Sample:
    """A timed step: its own span on the stream of the step, and regions that ran on other streams beside it."""

    step: _Span
    stream: int
    beside: list[_Span] = field(default_factory=list)


class StepTimer:
    """Times the regions of the steps that it is asked to, and forgets nothing else.

    A region that is entered while another stream than the step's is current (DeepSpeed's with ``overlap_comm``) runs
    beside the step and is not part of its time: it counts as ``communication_overlapped``.

    Args:
        device: where the model runs; it decides the clock.
        clock: another clock.
    """

    def __init__(self, device: torch.device, clock: Clock | None = None) -> None:
        self._clock: Clock = clock or (CudaClock() if device.type == "cuda" else HostClock())
        self._samples: list[_Sample] = []
        self._stack: list[_Span] = []

    @contextmanager
    def step(self) -> Iterator[None]:
        """Time the optimizer step inside. A step that raises is not counted."""
        sample = _Sample(_Span("other", self._clock.mark()), self._clock.stream())
        self._stack = [sample.step]
        try:
            with observed_by(lambda part: self._region(sample, part)):
                yield
        finally:
            self._stack = []
        sample.step.end = self._clock.mark()
        self._samples.append(sample)

    def take(self) -> dict[str, float]:
        """Sums over the steps since the last call, seconds, of every name in ``MEASURED``, and ``steps``, their number.

        Waits for the device to have finished them.
        """
        samples, self._samples = self._samples, []
        sums = dict.fromkeys(MEASURED, 0.0)
        for sample in samples:
            sums[TOTAL] += self._add_parts(sample.step, sums)
            sums[OVERLAPPED] += sum(self._clock.seconds(span.begin, span.end) for span in sample.beside)
        return {**sums, "steps": float(len(samples))}

    @contextmanager
    def _region(self, sample: _Sample, part: str) -> Iterator[None]:
        span = _Span(part, self._clock.mark())
        on_step = self._clock.stream() == sample.stream
        (self._stack[-1].inner if on_step else sample.beside).append(span)
        if on_step:
            self._stack.append(span)
        try:
            yield
        finally:
            span.end = self._clock.mark()
            if on_step:
                self._stack.pop()

    def _add_parts(self, span: _Span, sums: dict[str, float]) -> float:
        """Add a span's time to its part, less the regions inside it, which have their own; returns the whole of it."""
        whole = self._clock.seconds(span.begin, span.end)
        sums[span.part] += whole - sum(self._add_parts(inner, sums) for inner in span.inner)
        return whole
