"""The later stages of the ``wds.DataPipeline``: decode and augment samples, put them into micro-batches of tensors."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from sar_dist.data.batch_memory import empty_batch
from sar_dist.data.images import BadSample, Canvas, SampleDecoder, make_plan
from sar_dist.data.order import Sample
from sar_dist.errors import UserError

Batch = dict[str, Any]

MAX_SUBSTITUTES = 100
ERROR = "error"
MORE_MEMORY = "allow the processes more (ulimit -v, the container's limit), or lower data.workers or data.prefetch"


class TrainDecoding:
    """Second stage of training: adds ``image``; ``drawn``, what is to be done to it later; and ``bad``, the list of samples
    that this one had to replace.

    A bad sample is replaced by the next good one of its window: the choice is the same whoever makes it, and no rank
    gets fewer samples than the others. Raises UserError after 100 bad samples in a row. ``decoder_of`` gives the decoder of
    a global batch's samples, by the batch's number.
    """

    def __init__(self, decoder_of: Callable[[int], SampleDecoder]) -> None:
        self._decoder_of = decoder_of

    def __call__(self, samples: Iterable[Sample]) -> Iterator[Sample]:
        return map(self._first_good, samples)

    def _first_good(self, sample: Sample) -> Sample:
        bad: list[str] = []
        decoder = self._decoder_of(sample["batch"])
        for candidate in itertools.chain([sample], sample["substitutes"]):
            try:
                image, drawn = decoder.decode_and_draw(candidate)
                return candidate | {"image": image, "drawn": drawn, "bad": bad}
            except BadSample as problem:
                bad.append(str(problem))
            if len(bad) >= MAX_SUBSTITUTES:
                break
        raise UserError(
            f"{len(bad)} samples in a row cannot be used, the last is {bad[-1]}; see make_shards.py verify --deep"
        )


class ValidationDecoding:
    """Second stage of validation: adds ``image`` and ``bad``; a bad sample stays, without an image and with label 0."""

    def __init__(self, decoder: SampleDecoder) -> None:
        self._decoder = decoder

    def __call__(self, samples: Iterable[Sample]) -> Iterator[Sample]:
        for sample in samples:
            if not sample["valid"]:
                yield {"image": None, "cls": 0, "sample": -1, "valid": False, "bad": []}
                continue
            try:
                yield sample | {"image": self._decoder.decode(sample), "bad": []}
            except BadSample as problem:
                yield sample | {"image": None, "cls": 0, "bad": [str(problem)]}


class TrainBatching:
    """Last stage of training: micro-batches of ``size`` samples, as ``TrainLoader.iterate`` describes them.

    With a ``canvas``, what was drawn for the samples is planned for the device. ``largest`` is the side of the largest images
    (0: that of the first), for which there should be room.
    """

    def __init__(self, size: int, canvas: Canvas | None = None, largest: int = 0) -> None:
        self._size = size
        self._canvas = canvas
        self._room = 3 * size * largest**2

    def __call__(self, samples: Iterable[Sample]) -> Iterator[Batch]:
        for group in _groups(samples, self._size):
            yield {
                "image": _stack([sample["image"] for sample in group], self._room),
                "label": _int64(group, "cls"),
                "sample": _int64(group, "sample"),
                "position": _int64(group, "position"),
                "epoch": _int64(group, "epoch"),
                "by_set": Counter(sample["set"] for sample in group),
                "bad": sum(bool(sample["bad"]) for sample in group),
                "bad_keys": [key for sample in group for key in sample["bad"]],
                **self._planned(group),
            }

    def _planned(self, group: list[Sample]) -> Batch:
        if self._canvas is None:
            return {}
        height, width = group[0]["image"].shape[1:]
        plan, packed = make_plan([sample["drawn"] for sample in group], (height, width), self._canvas)
        return {"plan": plan, "operations": packed}


class ValidationBatching:
    """Last stage of validation: micro-batches of ``size`` places, as ``ValidationLoader.iterate`` describes them."""

    def __init__(self, size: int, decoder: SampleDecoder) -> None:
        self._size = size
        self._decoder = decoder

    def __call__(self, samples: Iterable[Sample]) -> Iterator[Batch]:
        for group in _groups(samples, self._size):
            images = [sample["image"] for sample in group]
            yield {
                "image": _stack([self._decoder.blank() if image is None else image for image in images]),
                "label": _int64(group, "cls"),
                "sample": _int64(group, "sample"),
                "valid": torch.tensor([sample["valid"] for sample in group]),
                "bad": torch.tensor([bool(sample["bad"]) for sample in group]),
                "bad_keys": [key for sample in group for key in sample["bad"]],
            }


def errors_as_batches(batches: Iterable[Batch]) -> Iterator[Batch]:
    """Turn a UserError into a last batch ``{"error": message}``: an exception from a worker would be a traceback's text."""
    try:
        yield from batches
    except UserError as error:
        yield {ERROR: str(error)}
    except MemoryError:
        yield {ERROR: f"a data worker could not allocate memory; {MORE_MEMORY}"}


def _groups(samples: Iterable[Sample], size: int) -> Iterator[list[Sample]]:
    iterator = iter(samples)
    while group := list(itertools.islice(iterator, size)):
        yield group


def _int64(group: list[Sample], key: str) -> Tensor:
    return torch.tensor([sample[key] for sample in group], dtype=torch.int64)


def _stack(images: list[Tensor], room: int = 0) -> Tensor:
    """uint8 (b, 3, S, S); in a worker, directly in the memory from which the parent takes it. ``room`` as of ``empty_batch``."""
    return torch.stack(images, out=empty_batch((len(images), *images[0].shape), room))
