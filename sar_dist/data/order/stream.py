"""The first stage of the ``wds.DataPipeline``: raw samples in the plan's order, for training and for validation.

It yields the dictionaries that WebDataset's own first stages would (``__key__``, ``__url__``, ``jpg``, ``cls``) together
with where the sample belongs, so that WebDataset's filters can be put behind it. ``jpg`` is the encoded image whatever
its format (None: the sample has none), ``cls`` the label (-1: the sample has none that is a number), ``damage`` what is
wrong with the bytes in the shard (None: nothing).
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from torch.utils.data import IterableDataset, get_worker_info

from sar_dist.data.order.mixture import Mixture
from sar_dist.data.order.plan import BatchPlan, Place, PlanSettings
from sar_dist.data.shards import NO_LABEL, Manifest, ShardReader, Shards

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


@dataclass(frozen=True)
class PlannedSet:
    """One data set of the training data, with the order of its samples.

    ``first_id`` is the global id of its first sample, ``classes`` the label in the run of each of its own labels (-1: none;
    None: they are the run's).
    """

    shards: Shards
    manifest: Manifest
    settings: PlanSettings
    first_id: int = 0
    classes: tuple[int, ...] | None = None

    def plan(self, cached_windows: int) -> BatchPlan:
        return BatchPlan(np.diff(self.manifest.offsets), self.settings, min(cached_windows, self.settings.streams))

    def read(self, reader: ShardReader, shard: int, index: int) -> Sample:
        """The raw sample with its global id and the run's label."""
        sample = _raw_sample(reader, self.manifest.offsets, shard, index)
        sample["sample"] += self.first_id
        label = sample["cls"]
        if self.classes is not None and label >= 0:
            sample["cls"] = self.classes[label] if label < len(self.classes) else NO_LABEL
            if sample["cls"] == NO_LABEL and sample["damage"] is None:
                sample["damage"] = f"label {label} is of no class of the run"
        return sample


class _Placed(NamedTuple):
    """A sample of a micro-batch before reading: which set it is of, where it is there, and the key of its random numbers."""

    number: int
    place: Place
    key: int


class _Located(NamedTuple):
    """A micro-batch before reading: its number and its global batch's, its first position in the endless sequence, and its
    samples."""

    number: int
    global_batch: int
    first: int
    samples: list[_Placed]


class TrainSource(IterableDataset):
    """First stage of training: the raw samples of this worker's micro-batches, in order.

    Worker w of W reads the micro-batches start + w, start + w + W, ...: a data loader that asks its workers in turn gets
    them in order. A sample has, besides WebDataset's keys, ``sample`` (global id), ``set`` (number of the data set),
    ``position`` (place in the endless sequence of global batches), ``batch`` (number of the global batch there), ``epoch``
    (pass over the set; with r copies of each sample, pass * r + copy: with ``sample`` the key of random numbers), and
    ``substitutes`` (iterator over the samples of the same set that may replace it).

    Args:
        sets: the data sets.
        mixture: which of them each position is of.
        different: samples of a global batch that are different ones.
        wanted: the micro-batches.
    """

    def __init__(self, sets: Sequence[PlannedSet], mixture: Mixture, different: int, wanted: TrainRange) -> None:
        self._sets = sets
        self._mixture = mixture
        self._different = different
        self._wanted = wanted

    def __iter__(self) -> Iterator[Sample]:
        micro_batches = _share_of_worker(range(self._wanted.start, self._wanted.stop))
        plans = self._plans()
        remote = any(each.shards.remote for each in self._sets)
        if remote:
            # Whole shards are fetched: a window ahead, so that they are there when its turn comes.
            settings = [each.settings for each in self._sets if each.shards.remote]
            ahead = max(-(-each.window // (each.global_batch // each.streams)) for each in settings)
            ahead_plans = self._plans()
        located = itertools.chain((self._locate(plans, micro) for micro in micro_batches), [None])
        with contextlib.ExitStack() as stack:
            opened = (ShardReader(each.shards, len(self._sets)) for each in self._sets)
            readers = [stack.enter_context(contextlib.closing(reader)) for reader in opened]
            for batch, following in itertools.pairwise(located):
                if batch is None:
                    return
                if remote:
                    coming = self._locate(ahead_plans, batch.number + ahead * self._wanted.accumulation)
                    self._prefetch([*batch.samples, *coming.samples])
                for number, place, _ in [] if following is None else following.samples:
                    if not self._sets[number].shards.remote:
                        readers[number].will_need(place.shard, place.sample)
                yield from self._read(readers, batch)

    def _plans(self) -> list[BatchPlan]:
        per_rank = self._wanted.micro_batch * self._wanted.accumulation
        whole = self._different * self._wanted.repeats
        # A rank's part of a set may begin and end inside a stream where it does not own whole ones.
        inside = 2 if len(self._sets) > 1 or self._wanted.repeats > 1 else 0
        return [
            each.plan(-(-per_rank * self._wanted.repeats * each.settings.streams // whole) + inside)
            for each in self._sets
        ]

    def _prefetch(self, samples: Sequence[_Placed]) -> None:
        for number, each in enumerate(self._sets):
            if each.shards.remote:
                each.shards.prefetch(sample.place.shard for sample in samples if sample.number == number)

    def _locate(self, plans: Sequence[BatchPlan], number: int) -> _Located:
        wanted, different = self._wanted, self._different
        batch, part = divmod(number, wanted.accumulation)
        first = (wanted.rank * wanted.accumulation + part) * wanted.micro_batch
        samples: list[_Placed] = []
        for copy in range(first // different, (first + wanted.micro_batch - 1) // different + 1):
            begin = max(first, copy * different) - copy * different
            end = min(first + wanted.micro_batch, (copy + 1) * different) - copy * different
            for which, place in self._in_turn(plans, range(batch * different + begin, batch * different + end)):
                samples.append(_Placed(which, place, place.epoch.epoch * wanted.repeats + copy))
        return _Located(number, batch, batch * different * wanted.repeats + first, samples)

    def _in_turn(self, plans: Sequence[BatchPlan], positions: range) -> Iterator[tuple[int, Place]]:
        """Set and place of each of these positions of the mixture."""
        numbers = [self._mixture.at(position)[0] for position in positions]
        ends = zip(self._mixture.counts(positions.start), self._mixture.counts(positions.stop), strict=True)
        places = [iter(plan.places(np.arange(*end))) for plan, end in zip(plans, ends, strict=True)]
        return ((number, next(places[number])) for number in numbers)

    def _read(self, readers: Sequence[ShardReader], batch: _Located) -> Iterator[Sample]:
        for offset, (number, place, key) in enumerate(batch.samples):
            where = {"set": number, "position": batch.first + offset, "epoch": key, "batch": batch.global_batch}
            sample = self._sets[number].read(readers[number], place.shard, place.sample) | where
            others = place.epoch.substitutes(place.stream, place.position)
            yield sample | {"substitutes": self._substitutes(number, readers[number], others, where)}

    def _substitutes(
        self, number: int, reader: ShardReader, places: Iterable[tuple[int, int]], where: Sample
    ) -> Iterator[Sample]:
        return (self._sets[number].read(reader, shard, index) | where for shard, index in places)


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
