"""The loaders that training and validation iterate over. All state is one number: the next global batch."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from math import ceil
from typing import Any

import webdataset as wds

from sar_dist.config import DataSettings
from sar_dist.data.batching import (
    Batch,
    TrainBatching,
    TrainDecoding,
    ValidationBatching,
    ValidationDecoding,
    errors_as_batches,
    with_encoded,
)
from sar_dist.data.fingerprint import fingerprint_changes, pass_lengths, sets_fingerprint
from sar_dist.data.images import BadSamples, Canvas, Draw, EncodedTrainTransform, SampleDecoder, Transform
from sar_dist.data.order import (
    Mixture,
    PlannedSet,
    PlanSettings,
    TrainRange,
    TrainSource,
    ValidationSource,
    check_streams,
    steps_per_epoch,
    streams_of_part,
    window_samples,
)
from sar_dist.data.shards import Manifest, open_shards
from sar_dist.data.train_sizes import SizedTransforms
from sar_dist.data.training_sets import TrainingSet
from sar_dist.data.workers import KeptPipeline, iterate_pipeline
from sar_dist.errors import UserError
from sar_dist.output import warn

# Part of the fingerprint: raise it whenever the same settings would give another order or other random numbers.
ORDER_VERSION = 1
_VALIDATION_PREFETCH = 2  # the first batches lie in memory until the first validation


class TrainLoader:
    """Training batches as a function of (sets, seed, global batch number), the same for any ranks and workers.

    Args:
        sets: the training shards, or several sets of them, which take turns as ``Mixture`` says; run ``check_shards`` on
            them first.
        data: workers, prefetch, streams, window, repeated augmentation, limit of bad samples.
        transform: encoded bytes to uint8 (3, S, S); or one that leaves decoding to the device, see ``device_batches``.
        global_batch: samples of one optimizer step over all ranks.
        micro_batch: samples of one rank and forward pass.
        rank, world_size: this process among those that train.
        seed: of order and augmentation.
        num_classes: samples with a label outside 0..num_classes-1 are bad.
        fingerprint_extra: what else must not change within a run, such as the augmentation; JSON values.
        later: draws what is done to a sample's image on the device, and how; None: nothing is.
        sized: where the size of images depends on the step: what then takes the place of ``transform`` and of what draws.

    Attributes: ``steps_per_epoch`` (global batches), ``accumulation`` (micro-batches of a rank in a global batch),
    ``next_batch`` (where ``load_state_dict`` left off), ``bad_samples``.
    Raises UserError where the numbers do not fit together.
    """

    def __init__(
        self,
        sets: Manifest | Sequence[TrainingSet],
        *,
        data: DataSettings,
        transform: Transform | EncodedTrainTransform,
        global_batch: int,
        micro_batch: int,
        rank: int,
        world_size: int,
        seed: int,
        num_classes: int,
        fingerprint_extra: dict[str, Any] | None = None,
        later: tuple[Draw, Canvas] | None = None,
        sized: SizedTransforms | None = None,
    ) -> None:
        if global_batch % (micro_batch * world_size):
            raise UserError(
                f"optim.global_batch={global_batch} is not a multiple of engine.micro_batch={micro_batch} x {world_size} processes"
            )
        given = [TrainingSet(sets)] if isinstance(sets, Manifest) else list(sets)
        self._repeats = data.repeated_augmentation
        check_streams(data.streams, global_batch, world_size, self._repeats, len(given))
        self._mixture = Mixture([each.weight for each in given])
        self._different = global_batch // self._repeats
        self._sets = _planned(given, self._mixture, data, seed, self._different)
        self._samples = sum(each.manifest.total for each in given)
        self.steps_per_epoch = steps_per_epoch(data.epoch_samples or self._samples, global_batch)
        self.accumulation = global_batch // (micro_batch * world_size)
        self.next_batch = 0
        # Caller's batch number to the sequence's; other than 0 only after a change that data.allow_changed let pass.
        self._shift = 0
        self.bad_samples = BadSamples(data.max_bad_fraction, "training")
        self._data = data
        self._canvas = None if later is None else later[1]
        self._decoder = SampleDecoder(transform, num_classes, seed, None if later is None else later[0])
        self._sized = sized
        views = {} if sized is None else sized.views
        self._decoders = {side: SampleDecoder(view, num_classes, seed, draw) for side, (view, draw) in views.items()}
        self._host = transform.host if isinstance(transform, EncodedTrainTransform) else None
        if self._host is not None:
            self._decoder_here = SampleDecoder(self._host, num_classes, seed, None if later is None else later[0])
        self._micro_batch = micro_batch
        self._rank = rank
        self._seed = seed
        self._fingerprint_extra = fingerprint_extra or {}

    def iterate(
        self,
        start_batch: int,
        stop_batch: int,
        *,
        registered: bool = False,
        on_the_way: Callable[[Iterator[Batch]], Iterator[Batch]] = iter,
    ) -> Iterator[Batch]:
        """This rank's micro-batches of the run's global batches [start_batch, stop_batch) in order, ``accumulation`` of each.

        Epochs follow each other without a break: one call can serve a whole run, and starts the workers once.
        Each micro-batch of b samples is a dictionary of ``image`` uint8 (b, 3, S, S); int64 (b,) ``label``, ``sample``
        (global id over all sets), ``position`` (global batch * G + place in it) and ``epoch`` (number of the pass over the
        set; with r copies of each sample, pass * r + copy); ``by_set`` (how many are of each set); ``bad`` (how many are
        substitutes) and ``bad_keys`` (the samples they replace, with the reason); with ``later`` also ``plan`` and ``operations``, see ``make_plan``. Raises UserError when
        too many samples are bad. If decoding is left to the device there are ``encoded`` and the batch's ``number`` instead
        of ``image``. With ``registered``, a GPU copies images from where the workers write them, again as soon as nothing refers to a batch: keep each
        until its copy is done, as ``prefetch_to_device`` does. ``on_the_way`` may change the batches and take them ahead of their use:
        samples are counted when a batch is handed out, so that a checkpoint holds the counts of what was used.
        """
        start, stop = ((batch + self._shift) * self.accumulation for batch in (start_batch, stop_batch))
        pipeline = wds.DataPipeline(
            self._source(start, stop),
            TrainDecoding(self._decoder_of, self._micro_batch),
            TrainBatching(
                self._micro_batch, self._canvas, 0 if self._sized is None else self._sized.largest, self._host
            ),
            errors_as_batches,
        )
        batches = iterate_pipeline(pipeline, self._data.workers, self._data.prefetch, registered=registered)
        return self._counted(on_the_way(batches if self._host is None else _with_numbers(batches, start)), start)

    @property
    def leaves_decoding(self) -> bool:
        """Whether batches are ``encoded``."""
        return self._host is not None

    def made_here(self, batch: Batch) -> Batch:
        """The batch as it would be if decoding were not left to the device, made in this process."""
        number = batch["number"]
        decoded = TrainDecoding(lambda _: self._decoder_here, self._micro_batch)(self._source(number, number + 1))
        return next(TrainBatching(self._micro_batch, self._canvas)(decoded))

    def encoded(self, batch: int, count: int) -> list[bytes]:
        """The first ``count`` image files, or fewer, of this rank's part of global batch ``batch`` and those after it.

        They are read in this process, as they are stored; samples without a usable image are left out.
        """
        first = (batch + self._shift) * self.accumulation
        source = self._source(first, first + -(-count // self._micro_batch))
        return [sample["jpg"] for sample in itertools.islice(source, count) if sample["jpg"] is not None]

    def _source(self, start: int, stop: int) -> TrainSource:
        """The raw samples of this rank's micro-batches [start, stop) of the sequence."""
        wanted = TrainRange(start, stop, self._micro_batch, self.accumulation, self._rank, self._repeats)
        return TrainSource(self._sets, self._mixture, self._different, wanted)

    def _decoder_of(self, batch: int) -> SampleDecoder:
        """The decoder of the samples of a global batch of the sequence."""
        return self._decoder if self._sized is None else self._decoders[self._sized.sizes.at(batch - self._shift)]

    def _counted(self, batches: Iterator[Batch], start: int) -> Iterator[Batch]:
        uncounted = (
            self.next_batch + self._shift
        ) * self.accumulation  # those before were counted when they were saved
        for number, batch in enumerate(batches, start):
            if number >= uncounted:
                self.bad_samples.add(len(batch["label"]), batch["bad"], batch["bad_keys"])
            yield batch

    def fingerprint(self) -> dict[str, Any]:
        """What the sequence of batches depends on. Ranks, micro-batch and workers are not in it: they may change."""
        return {
            "order_version": ORDER_VERSION,
            **sets_fingerprint(self._sets, self._mixture.shares),
            "seed": self._seed,
            "global_batch": self._different * self._repeats,
            "repeated_augmentation": self._repeats,
            **self._fingerprint_extra,
        }

    def state_dict(self, consumed_batches: int) -> dict[str, Any]:
        """State to save after ``consumed_batches`` global batches since the beginning of the run. JSON values."""
        return {"next_batch": consumed_batches, "shift": self._shift, "fingerprint": self.fingerprint()}

    def load_state_dict(self, state: dict[str, Any], seen_samples: Iterable[Mapping[str, Any]] = ()) -> None:
        """Go on after a saved state: sets ``next_batch``. ``seen_samples`` are what processes had counted of bad samples.

        Raises UserError, naming what changed, if the batches are others now; with ``data.allow_changed`` the rest of the
        epoch is given up instead, and the new sequence begins at its next epoch, and the count of bad samples anew.
        """
        # A checkpoint from before there was repeated augmentation does not name it.
        saved = {"repeated_augmentation": 1} | state["fingerprint"]
        current = self.fingerprint()
        changed = fingerprint_changes(saved, current)
        self.next_batch, self._shift = int(state["next_batch"]), int(state["shift"])
        if not changed:
            for counted in seen_samples:
                self.bad_samples.go_on(counted)
            return
        what = ", ".join(changed)
        if not self._data.allow_changed:
            raise UserError(
                f"the checkpoint was made with other training data or another order ({what}); "
                "restore that, start a new run, or set data.allow_changed=true to go on with a new epoch"
            )
        begun = max(-(-(self.next_batch + self._shift) // length) for length in pass_lengths(saved))
        self._shift = max(ceil(begun * length) for length in pass_lengths(current)) - self.next_batch
        warn(f"training data or order changed ({what}): going on with the beginning of epoch {begun}")


def _with_numbers(batches: Iterator[Batch], start: int) -> Iterator[Batch]:
    """Batches of files, which whoever decodes them may ask for again by their number in the sequence."""
    for number, batch in enumerate(batches, start):
        yield {**with_encoded(batch), "number": number}


def _planned(
    sets: Sequence[TrainingSet], mixture: Mixture, data: DataSettings, seed: int, different: int
) -> list[PlannedSet]:
    """Every set with the plan of its samples, of which its share of the ``different`` samples of a batch are one step."""
    planned: list[PlannedSet] = []
    first_id = 0
    for each, share in zip(sets, mixture.shares, strict=True):
        manifest = each.manifest
        # A set alone is refused by its plan if it has fewer samples than a batch; in a mixture it comes round more often.
        part = max(1, min(round(different * share), manifest.total)) if len(sets) > 1 else different
        window = window_samples([shard.samples for shard in manifest.shards], data.window_shards)
        settings = PlanSettings(seed, part, streams_of_part(part, data.streams), window)
        planned.append(PlannedSet(open_shards(manifest, data), manifest, settings, first_id, each.classes))
        first_id += manifest.total
    return planned


class ValidationLoader:
    """Every validation sample exactly once over all ranks, in the same number of steps on each.

    Arguments as for ``TrainLoader``. Attributes: ``total`` (samples over all ranks), ``steps`` (micro-batches of a rank),
    ``fingerprint`` (tells the set from others, wherever it lies).
    Its processes start with ``start``, or else with the first ``iterate``, and stay for later ones.
    """

    def __init__(
        self,
        manifest: Manifest,
        *,
        data: DataSettings,
        transform: Transform,
        micro_batch: int,
        rank: int,
        world_size: int,
        num_classes: int,
    ) -> None:
        shards = open_shards(manifest, data)
        self.fingerprint: dict[str, str | None] = {"manifest": manifest.fingerprint, "content": shards.content}
        self._source = ValidationSource(shards, manifest, micro_batch, rank, world_size)
        self._decoder = SampleDecoder(transform, num_classes, seed=0)
        self._micro_batch = micro_batch
        self._data = data
        self.total = manifest.total
        self.class_names = manifest.classes
        self.steps = self._source.steps
        self._kept: KeptPipeline | None = None

    def start(self) -> None:
        """Start the processes, which prepare the first batches, if they have not been started."""
        if self._kept is None:
            pipeline = wds.DataPipeline(
                self._source,
                ValidationDecoding(self._decoder),
                ValidationBatching(self._micro_batch),
                errors_as_batches,
            )
            prefetch = min(self._data.prefetch, _VALIDATION_PREFETCH)
            self._kept = KeptPipeline(pipeline, self._data.workers, prefetch)

    def iterate(self) -> Iterator[Batch]:
        """This rank's ``steps`` micro-batches of b places each, always in the same order.

        Each is a dictionary of ``image`` uint8 (b, 3, S, S), int64 (b,) ``label`` and ``sample`` (global id, -1: padding),
        bool (b,) ``valid`` (False: padding) and ``bad`` (True: the sample could not be used; image and label are zeros, count
        it as wrong), and ``bad_keys`` with the reasons.
        """
        self.start()
        assert self._kept is not None
        return self._kept.iterate()

    def samples(self, samples: Sequence[int]) -> Batch:
        """The given samples (global ids) as one batch like those of ``iterate``, read in this process; for pictures."""
        decoded = ValidationDecoding(self._decoder)(self._source.read(samples))
        return next(ValidationBatching(len(samples))(decoded))
