"""Which samples make up global batch ``s`` of epoch ``e``: a pure function, so that resuming is arithmetic.

The epoch's order is built from counter-based random numbers keyed by (seed, epoch, ...):

1. the shards are permuted and laid end to end; the last ``total % global_batch`` samples sit this epoch out
   (different ones each epoch, as the shards move);
2. that sequence is cut into L equal logical streams at sample granularity (L divides the global batch G);
3. inside a stream, windows of a few shards' worth of samples are permuted.

Global batch s takes samples [s G/L, (s+1) G/L) of every stream, stream after stream, and rank r of W owns the streams
[r L/W, (r+1) L/W): the global batch does not depend on W, every rank has the same number of steps, and no sample
occurs twice in an epoch.

Where a mixture of data sets makes up the global batch, each set has a plan of its own with its part of the batch as G, and is
asked for its next samples wherever its plan's batches end: what asks counts samples, not batches.

With repeated augmentation (each sample r times in a global batch) the plan is that of the G/r different samples, and place
p of the global batch is copy p // (G/r) of sample p % (G/r): the copies are far apart, so that they are spread over the
ranks and the neighbours that mixup mixes are different samples. An epoch of total // G batches is then one r-th of a pass
over the data, and the plan's "epoch" is a pass: no sample returns before all others had their turn.

Memory of a plan: 24 bytes a shard, and 2 bytes (4 in windows above 65 535 samples) for each sample of the windows that
the caller's streams are in, that is 2 * window * (streams of this rank): nothing grows with the number of samples.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from sar_dist.errors import UserError
from sar_dist.keys import keyed_permutation

MAX_DEFAULT_STREAMS = 256


def divisors(number: int) -> list[int]:
    """All divisors, ascending."""
    small = [d for d in range(1, int(number**0.5) + 1) if number % d == 0]
    return sorted({*small, *(number // d for d in small)})


def default_streams(global_batch: int) -> int:
    """Number of logical streams where none is given: the largest divisor of the global batch up to 256."""
    return streams_of_part(global_batch, None)


def check_streams(streams: int | None, global_batch: int, world_size: int, repeats: int = 1, sets: int = 1) -> None:
    """Raise UserError, naming valid values, unless world size divides streams and streams divides the global batch.

    With ``repeats`` copies of a sample in a global batch, streams must divide the number of different samples in it, and
    the ranks need not own whole streams. Of several ``sets`` each has streams of its own, see ``streams_of_part``.
    ``streams``: None for the default.
    """
    if global_batch % world_size:
        below = global_batch // world_size * world_size
        near = " or ".join(str(value) for value in (below, below + world_size) if value)
        raise UserError(
            f"optim.global_batch={global_batch} cannot be shared by {world_size} processes; use {near} or another multiple"
        )
    if global_batch % repeats:
        unit = math.lcm(repeats, world_size)
        near = " or ".join(str(value * unit) for value in (global_batch // unit, global_batch // unit + 1) if value)
        raise UserError(
            f"data.repeated_augmentation={repeats} must divide optim.global_batch={global_batch}; use {near}"
        )
    if sets > 1:
        return
    different = global_batch // repeats
    streams = streams or default_streams(different)
    if repeats > 1:
        if different % streams:
            raise UserError(
                f"data.streams={streams} must divide the {different} different samples of a global batch of {global_batch} "
                f"(data.repeated_augmentation={repeats}); valid: {', '.join(map(str, divisors(different)))}"
            )
    elif global_batch % streams or streams % world_size:
        valid = [d for d in divisors(global_batch) if d % world_size == 0]
        raise UserError(
            f"data.streams={streams} must divide optim.global_batch={global_batch} and be a multiple of the "
            f"{world_size} processes; valid: {', '.join(map(str, valid))}"
        )


def streams_of_part(part: int, most: int | None) -> int:
    """Streams of a data set that has ``part`` samples of a batch: its largest divisor up to ``most`` (None: 256)."""
    return max(d for d in divisors(part) if d <= (most or MAX_DEFAULT_STREAMS))


@dataclass(frozen=True)
class PlanSettings:
    """What the order of samples depends on besides the manifest: seed, global batch G, streams L, window in samples."""

    seed: int
    global_batch: int
    streams: int
    window: int


def window_samples(shard_sizes: Sequence[int] | np.ndarray, window_shards: float) -> int:
    """Samples in a shuffle window of ``window_shards`` shards of mean size; at least 1."""
    return max(1, round(window_shards * float(np.mean(shard_sizes))))


class EpochPlan:
    """The order of one epoch.

    Args:
        shard_sizes: (shards,) number of samples of each shard, in manifest order.
        settings: seed, global batch, streams and window.
        epoch: which epoch; another epoch is another order.
        cached_windows: window permutations that are kept (2 or 4 bytes a sample); at least the streams in use.

    Raises UserError if the shards hold less than one global batch.
    """

    def __init__(
        self, shard_sizes: np.ndarray, settings: PlanSettings, epoch: int, cached_windows: int | None = None
    ) -> None:
        self.settings = settings
        self.epoch = epoch
        self.steps = steps_per_epoch(int(shard_sizes.sum()), settings.global_batch)
        self._order = keyed_permutation(len(shard_sizes), settings.seed, epoch, "shards")
        self._ends = np.cumsum(shard_sizes[self._order], dtype=np.int64)
        self._starts = self._ends - shard_sizes[self._order]
        self._per_step = settings.global_batch // settings.streams
        self.stream_length = self.steps * self._per_step
        self._permutation = lru_cache(maxsize=cached_windows or settings.streams)(self._window_permutation)

    def samples(self, step: int, streams: slice = slice(None)) -> tuple[np.ndarray, np.ndarray]:
        """Samples of global batch ``step`` of this epoch in order, restricted to ``streams``.

        Returns (shard, index within the shard), each (streams * G / L,) int64.
        """
        chosen = np.arange(self.settings.streams)[streams]
        first = self._checked(step) * self._per_step
        positions = np.arange(first, first + self._per_step)
        return self.locate(np.repeat(chosen, self._per_step), np.tile(positions, len(chosen)))

    def batch_places(self, step: int, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(stream, position in the stream) of the given places (n,) of global batch ``step``; (n,) each."""
        return places // self._per_step, self._checked(step) * self._per_step + places % self._per_step

    def locate(self, streams: np.ndarray, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(shard, index within the shard) of the given positions of the given streams, each (n,) int64."""
        window = self.settings.window
        laid_out = np.empty(len(streams), dtype=np.int64)
        for i, (stream, position) in enumerate(zip(streams.tolist(), positions.tolist(), strict=True)):
            number, offset = divmod(position, window)
            laid_out[i] = stream * self.stream_length + number * window + int(self._permutation(stream, number)[offset])
        return self._at(laid_out)

    def substitutes(self, stream: int, position: int) -> Iterator[tuple[int, int]]:
        """(shard, index) of the samples that may stand in for a bad one: the next ones of its window, cyclically."""
        number, offset = divmod(position, self.settings.window)
        size = len(self._permutation(stream, number))
        base = number * self.settings.window
        for step in range(1, size):
            shard, index = self.locate(np.array([stream]), np.array([base + (offset + step) % size]))
            yield int(shard[0]), int(index[0])

    def _checked(self, step: int) -> int:
        if not 0 <= step < self.steps:
            raise IndexError(f"step {step} of an epoch of {self.steps} steps")
        return step

    def _at(self, laid_out: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Positions in the sequence of permuted shards -> (shard, index)."""
        place = np.searchsorted(self._ends, laid_out, side="right")
        return self._order[place].astype(np.int64), laid_out - self._starts[place]

    def _window_permutation(self, stream: int, number: int) -> np.ndarray:
        size = min(self.settings.window, self.stream_length - number * self.settings.window)
        return keyed_permutation(size, self.settings.seed, self.epoch, stream, number)


def steps_per_epoch(total: int, global_batch: int) -> int:
    """Global batches in an epoch of ``total`` samples. Raises UserError if there is not even one."""
    if total < global_batch:
        raise UserError(
            f"the training set has {total} samples, fewer than one global batch of {global_batch}; lower optim.global_batch"
        )
    return total // global_batch


class Place(NamedTuple):
    """Where one sample of the sequence is: in its epoch's plan, and in the shards."""

    epoch: EpochPlan
    stream: int
    position: int
    shard: int
    sample: int


class BatchPlan:
    """The endless sequence of global batches: batch g is step ``g % steps`` of epoch ``g // steps``."""

    def __init__(
        self, shard_sizes: Sequence[int] | np.ndarray, settings: PlanSettings, cached_windows: int | None = None
    ):
        self.settings = settings
        self._sizes = np.asarray(shard_sizes, dtype=np.int64)
        self._cached_windows = cached_windows
        self.steps_per_epoch = steps_per_epoch(int(self._sizes.sum()), settings.global_batch)
        # Two epochs: around an epoch's end one worker is in both.
        self.epoch = lru_cache(maxsize=2)(self._epoch)

    def _epoch(self, epoch: int) -> EpochPlan:
        return EpochPlan(self._sizes, self.settings, epoch, self._cached_windows)

    def at(self, batch: int) -> tuple[EpochPlan, int]:
        """The epoch's plan and the step within the epoch of global batch ``batch``."""
        epoch, step = divmod(batch, self.steps_per_epoch)
        return self.epoch(epoch), step

    def places(self, positions: np.ndarray) -> list[Place]:
        """The samples at the given positions (n,), in ascending order, of all global batches laid end to end."""
        found: list[Place] = []
        batches, places = np.divmod(positions, self.settings.global_batch)
        for batch, start in zip(*np.unique(batches, return_index=True), strict=True):
            epoch, step = self.at(int(batch))
            streams, within = epoch.batch_places(step, places[start : start + np.count_nonzero(batches == batch)])
            shards, indices = epoch.locate(streams, within)
            rows = zip(streams.tolist(), within.tolist(), shards.tolist(), indices.tolist(), strict=True)
            found += [Place(epoch, *row) for row in rows]
        return found

    def batches(self, first: int) -> Iterator[tuple[EpochPlan, int]]:
        """Global batches from ``first`` on, without end."""
        return (self.at(batch) for batch in itertools.count(first))
