"""Looking into a few steps of a run: the time of each part, and a trace. The other steps are left alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch

from sar_dist import distributed
from sar_dist.config import RunConfig
from sar_dist.engine import collectives_as_regions
from sar_dist.observe import MEASURED, OVERLAPPED, PARTS, TOTAL, RunLogger, StepTimer, StepTrace, Throughput
from sar_dist.training.length import RunLength

_SHOWN_PARTS = 4
_SHORT_NAMES = {"data_wait": "data", "host_to_device": "copy", "spatial_entropy": "entropy", "communication": "comm"}


class StepProfiler:
    """Times or traces a step when it is its turn (``profile.*`` of the configuration).

    The first step of a start is never timed: it has the warming up in it. Neither are traced steps, which are slower.
    Only the main process traces.

    Args:
        config, length: the run.
        first_step: optimizer steps that were done before this start.
        device: where the model runs.
        logger: takes the trace.
        throughput: leaves the writing of the trace out.
    """

    def __init__(
        self,
        config: RunConfig,
        length: RunLength,
        first_step: int,
        device: torch.device,
        logger: RunLogger,
        throughput: Throughput,
    ) -> None:
        settings = config.profile
        self._first_step = first_step
        self._device = device
        self._logger = logger
        self._throughput = throughput
        self._every = None if settings.sample_every is None else length.steps(settings.sample_every)
        self._timer = StepTimer(device)
        begin = first_step + settings.trace_after  # the step in which the profiler warms up
        self._traced = range(begin, begin + 1 + settings.trace_steps) if settings.trace else range(0)
        self._trace: StepTrace | None = None

    @contextmanager
    def step(self, number: int) -> Iterator[None]:
        """Around the optimizer step that is the run's ``number``-th."""
        if number in self._traced and distributed.is_main():
            with self._tracing(number):
                yield
        elif self._is_sampled(number):
            with collectives_as_regions(), self._timer.step():
                yield
        else:
            yield

    def take(self) -> dict[str, float]:
        """Mean seconds of the steps timed since the last call, and of each of their parts, over steps and processes.

        Call on every process. Empty if no step was timed. ``communication_overlapped`` is there on GPUs only.
        """
        sums = self._timer.take()
        if not sums["steps"]:
            return {}
        total = torch.tensor(list(sums.values()), dtype=torch.float64, device=self._device)
        reduced = dict(zip(sums, distributed.all_reduce_sum(total).tolist(), strict=True))
        names = [name for name in MEASURED if name != OVERLAPPED or self._device.type == "cuda"]
        return {name: reduced[name] / reduced["steps"] for name in names}

    def close(self) -> None:
        """Write what there is of a trace that the end of training cuts short, and say when there is none."""
        if self._trace is not None:
            self._trace.close()
        elif self._traced and distributed.is_main():
            self._logger.message(
                f"warning: profile.trace: training ended before step {self._traced[0]}; lower profile.trace_after"
            )

    def _is_sampled(self, number: int) -> bool:
        turn = self._every is not None and number % self._every == 0
        return turn and number > self._first_step + 1 and number not in self._traced

    @contextmanager
    def _tracing(self, number: int) -> Iterator[None]:
        if self._trace is None:
            self._trace = StepTrace(self._traced[1:], self._device, self._logger.trace)
        with collectives_as_regions(), self._trace.step(number):
            yield
        with self._throughput.paused():
            self._trace.step_done()


def time_shares(split: Mapping[str, float]) -> str:
    """The largest parts of a step's time as "backward 52% forward 31% ...", for the progress line."""
    largest = sorted(PARTS, key=lambda part: -split[part])[:_SHOWN_PARTS]
    return " ".join(f"{_SHORT_NAMES.get(part, part)} {split[part] / split[TOTAL]:.0%}" for part in largest)
