"""The first stage of the ``wds.DataPipeline``: raw samples in the plan's order, for training and for validation.

It yields the dictionaries that WebDataset's own first stages would (``__key__``, ``__url__``, ``jpg``, ``cls``) together
with where the sample belongs, so that WebDataset's filters can be put behind it. ``jpg`` is the encoded image whatever
its format (None: the sample has none), ``cls`` the label (-1: the sample has none that is a number), ``damage`` what is
wrong with the bytes in the shard (None: nothing).
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from torch.utils.data import IterableDataset, get_worker_info

from sar_dist.data.order.plan import BatchPlan, EpochPlan, PlanSettings
from sar_dist.data.shards import Manifest, ShardReader, Shards

Sample = dict[str, Any]


@dataclass(frozen=True)
class TrainRange:
    """Micro-batches [start, stop) of one rank; micro-batch m is part m % accumulation of global batch m // accumulation.

    ``repeats`` is how often each sample of the plan is in a global batch, which is so many times the plan's.
    """

    start: int
    stop: int
    micro_batch: int
    accumulation: int
    rank: int
    repeats: int = 1


class _Located(NamedTuple):
    """A micro-batch before reading: where its samples are, and where it is in the sequence."""

    number: int
    epoch: EpochPlan
    streams: list[int]
    positions: list[int]
    samples: list[tuple[int, int]]
    first: int
    keys: list[int]


class TrainSource(IterableDataset):
    """First stage of training: the raw samples of this worker's micro-batches, in order.

    Worker w of W reads the micro-batches start + w, start + w + W, ...: a data loader that asks its workers in turn gets
    them in order. A sample has, besides WebDataset's keys, ``sample`` (global id), ``position`` (place in the endless
    sequence of global batches), ``epoch`` (pass over the data; with r copies of each sample, pass * r + copy: with
    ``sample`` the key of random numbers), and ``substitutes`` (iterator over the samples that may replace it).
    """

    def __init__(self, shards: Shards, manifest: Manifest, settings: PlanSettings, wanted: TrainRange) -> None:
        self._shards = shards
        self._offsets = manifest.offsets
        self._settings = settings
        self._wanted = wanted

    def __iter__(self) -> Iterator[Sample]:
        micro_batches = _share_of_worker(range(self._wanted.start, self._wanted.stop))
        plan = self._plan()
        if self._shards.remote:
            # Whole shards are fetched: a window ahead, so that they are there when its turn comes.
            ahead = -(-self._settings.window // (self._settings.global_batch // self._settings.streams))
            ahead_plan = self._plan()
        located = itertools.chain((self._locate(plan, micro) for micro in micro_batches), [None])
        with contextlib.closing(ShardReader(self._shards)) as reader:
            for batch, following in itertools.pairwise(located):
                if batch is None:
                    return
                if self._shards.remote:
                    coming = self._locate(ahead_plan, batch.number + ahead * self._wanted.accumulation)
                    self._shards.prefetch(shard for shard, _ in (*batch.samples, *coming.samples))
                elif following is not None:
                    for shard, index in following.samples:
                        reader.will_need(shard, index)
                yield from self._read(reader, batch)

    def _plan(self) -> BatchPlan:
        settings = self._settings
        per_rank = self._wanted.micro_batch * self._wanted.accumulation
        streams_of_rank = -(-per_rank * settings.streams // settings.global_batch)
        if self._wanted.repeats > 1:  # a rank's part may begin inside a stream
            streams_of_rank = min(streams_of_rank + 1, settings.streams)
        return BatchPlan(np.diff(self._offsets), settings, cached_windows=streams_of_rank)

    def _locate(self, plan: BatchPlan, number: int) -> _Located:
        wanted = self._wanted
        batch, part = divmod(number, wanted.accumulation)
        epoch, step = plan.at(batch)
        first = (wanted.rank * wanted.accumulation + part) * wanted.micro_batch
        copies, places = np.divmod(np.arange(first, first + wanted.micro_batch), self._settings.global_batch)
        streams, positions = epoch.batch_places(step, places)
        shards, indices = epoch.locate(streams, positions)
        samples = list(zip(shards.tolist(), indices.tolist(), strict=True))
        position = batch * self._settings.global_batch * wanted.repeats + first
        keys = (epoch.epoch * wanted.repeats + copies).tolist()
        return _Located(number, epoch, streams.tolist(), positions.tolist(), samples, position, keys)

    def _read(self, reader: ShardReader, batch: _Located) -> Iterator[Sample]:
        for place, (shard, index) in enumerate(batch.samples):
            where = {"position": batch.first + place, "epoch": batch.keys[place]}
            others = batch.epoch.substitutes(batch.streams[place], batch.positions[place])
            sample = _raw_sample(reader, self._offsets, shard, index) | where
            yield sample | {"substitutes": _raw_samples(reader, self._offsets, others, where)}


class ValidationSource(IterableDataset):
    """First stage of validation: each sample once over all ranks, in steps of ``micro_batch`` samples a rank.

    Step s of rank r of W covers the global ids (s W + r) * micro_batch onwards; a place behind the last sample yields a
    dictionary with nothing but ``valid=False``, so that all ranks have the same number of steps.
    """

    def __init__(self, shards: Shards, manifest: Manifest, micro_batch: int, rank: int, world_size: int) -> None:
        self._shards = shards
        self._manifest = manifest
        self._micro_batch = micro_batch
        self._rank = rank
        self._world_size = world_size
        self.steps = -(-manifest.total // (micro_batch * world_size))

    def __iter__(self) -> Iterator[Sample]:
        return self.read(self._places())

    def _places(self) -> Iterator[int]:
        steps = _share_of_worker(range(self.steps))
        for step in steps:
            first = (step * self._world_size + self._rank) * self._micro_batch
            if self._shards.remote:
                following = first + steps.step * self._world_size * self._micro_batch
                for start in (first, following):
                    self._prefetch(range(start, min(start + self._micro_batch, self._manifest.total)))
            yield from range(first, first + self._micro_batch)

    def _prefetch(self, samples: range) -> None:
        self._shards.prefetch(self._manifest.locate(sample)[0] for sample in samples)

    def read(self, samples: Iterable[int]) -> Iterator[Sample]:
        """The samples with the given global ids, still encoded."""
        with contextlib.closing(ShardReader(self._shards)) as reader:
            for sample in samples:
                if sample < self._manifest.total:
                    shard, index = self._manifest.locate(sample)
                    yield _raw_sample(reader, self._manifest.offsets, shard, index) | {"valid": True}
                else:
                    yield {"valid": False}


def _share_of_worker(numbers: range) -> range:
    """Every W-th of ``numbers``, from the w-th on, in data-loader worker w of W; all of them outside of a worker."""
    worker = get_worker_info()
    return numbers if worker is None else numbers[worker.id :: worker.num_workers]


def _raw_sample(reader: ShardReader, offsets: np.ndarray, shard: int, index: int) -> Sample:
    raw = reader.read(shard, index)
    sample = int(offsets[shard]) + index
    return {
        "__key__": raw.key,
        "__url__": reader.url(shard),
        "jpg": raw.image,
        "cls": raw.label,
        "sample": sample,
        "damage": raw.damage,
    }


def _raw_samples(
    reader: ShardReader, offsets: np.ndarray, places: Iterable[tuple[int, int]], where: Sample
) -> Iterator[Sample]:
    return (_raw_sample(reader, offsets, shard, index) | where for shard, index in places)
