"""The later stages of the ``wds.DataPipeline``: decode and augment samples, put them into micro-batches of tensors."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sar_dist.config import height_and_width
from sar_dist.data.batch_memory import empty_batch
from sar_dist.data.image_batch import ImageBatch
from sar_dist.data.images import (
    BadSample,
    Canvas,
    DrawnAhead,
    EncodedBatch,
    EncodedImage,
    FastTrainTransform,
    SampleDecoder,
    finished_pixels,
    layout_of,
    make_plan,
)
from sar_dist.data.order import Sample
from sar_dist.errors import UserError

Batch = dict[str, Any]

MAX_SUBSTITUTES = 100
ERROR = "error"
# Samples that are read and drawn for before the first of them is decoded: enough to find this code in a core's caches.
_TOGETHER = 16
# Batches of files differ in size; those that are larger by more than this travel as torch sends them.
_ROOM_FOR_FILES = 2.0
MORE_MEMORY = "allow the processes more (ulimit -v, the container's limit), or lower data.workers or data.prefetch"


class TrainDecoding:
    """Second stage of training: adds ``image``; ``drawn``, what is to be done to it later; and ``bad``, the list of samples
    that this one had to replace.

    A bad sample is replaced by the next good one of its window: the choice is the same whoever makes it, and no rank
    gets fewer samples than the others. Raises UserError after 100 bad samples in a row. ``decoder_of`` gives the decoder of
    a global batch's samples, by the batch's number.

    A few samples of a micro-batch of ``size`` are read and drawn for, one right after the other, and then decoded.
    """

    def __init__(self, decoder_of: Callable[[int], SampleDecoder], size: int) -> None:
        self._decoder_of = decoder_of
        self._parts = [min(_TOGETHER, size - start) for start in range(0, size, _TOGETHER)]

    def __call__(self, samples: Iterable[Sample]) -> Iterator[Sample]:
        iterator = iter(samples)
        # Never one sample more than the last micro-batch has: with the end of the samples the files of substitutes close.
        for part in itertools.cycle(self._parts):
            group = list(itertools.islice(iterator, part))
            if not group:
                return
            ahead = [self._decoder_of(sample["batch"]).draw_ahead(sample) for sample in group]
            yield from map(self._first_good, group, ahead)

    def _first_good(self, sample: Sample, ahead: DrawnAhead | None) -> Sample:
        bad: list[str] = []
        decoder = self._decoder_of(sample["batch"])
        for candidate in itertools.chain([sample], sample["substitutes"]):
            try:
                image, drawn = decoder.decode_and_draw(candidate, None if bad else ahead)
                return candidate | {"image": image, "drawn": drawn, "bad": bad}
            except BadSample as problem:
                bad.append(str(problem))
            if len(bad) >= MAX_SUBSTITUTES:
                break
        raise UserError(
            f"{len(bad)} samples in a row cannot be used, the last is {bad[-1]}; see make_shards.py verify --deep"
        )


class ValidationDecoding:
    """Second stage of validation: adds ``image`` and ``bad``; a bad sample stays, with an image of zeros and label 0."""

    def __init__(self, decoder: SampleDecoder) -> None:
        self._decoder = decoder

    def __call__(self, samples: Iterable[Sample]) -> Iterator[Sample]:
        for sample in samples:
            if not sample["valid"]:
                yield {"image": self._decoder.blank(), "cls": 0, "sample": -1, "valid": False, "bad": []}
                continue
            try:
                yield sample | {"image": self._decoder.decode(sample), "bad": []}
            except BadSample as problem:
                yield sample | {"image": self._decoder.blank(), "cls": 0, "bad": [str(problem)]}


class TrainBatching:
    """Last stage of training: micro-batches of ``size`` samples, as ``TrainLoader.iterate`` describes them.

    With a ``canvas``, what was drawn for the samples is planned for the device. ``largest`` is the side of the largest images
    (0: that of the first), for which there should be room. With ``encoded``, what decodes images on the host, they are those of
    ``EncodedTrainTransform``, and travel as ``encoded_files``, ``pixels`` and ``layout``.
    """

    def __init__(
        self, size: int, canvas: Canvas | None = None, largest: int = 0, encoded: FastTrainTransform | None = None
    ) -> None:
        self._size = size
        self._canvas = canvas
        self._room = 3 * size * largest**2
        self._encoded = encoded

    def __call__(self, samples: Iterable[Sample]) -> Iterator[Batch]:
        if self._encoded is None:
            for group, images in _with_images(samples, self._size, self._room):
                yield {"image": images, **self._described(group, (images.shape[2], images.shape[3]))}
            return
        for group in _groups(samples, self._size):
            files = _files([sample["image"] for sample in group], self._encoded)
            yield {**files, **self._described(group, height_and_width(self._encoded.image_size))}

    def _described(self, group: list[Sample], image_size: tuple[int, int]) -> Batch:
        described = {
            "label": _int64(group, "cls"),
            "sample": _int64(group, "sample"),
            "position": _int64(group, "position"),
            "epoch": _int64(group, "epoch"),
            "by_set": Counter(sample["set"] for sample in group),
            "bad": sum(bool(sample["bad"]) for sample in group),
            "bad_keys": [key for sample in group for key in sample["bad"]],
        }
        if self._canvas is None:
            return described
        plan, packed = make_plan([sample["drawn"] for sample in group], image_size, self._canvas)
        return described | {"plan": plan, "operations": packed}


def with_encoded(batch: Batch) -> Batch:
    """A batch of files as it arrives from a worker: they are ``encoded`` now, which is left on the host."""
    names = ("encoded_files", "pixels", "layout")
    encoded = EncodedBatch(*(batch[name] for name in names))
    return {**{key: value for key, value in batch.items() if key not in names}, "encoded": encoded}


class ValidationBatching:
    """Last stage of validation: micro-batches of ``size`` places, as ``ValidationLoader.iterate`` describes them."""

    def __init__(self, size: int) -> None:
        self._size = size

    def __call__(self, samples: Iterable[Sample]) -> Iterator[Batch]:
        for group, images in _with_images(samples, self._size):
            yield {
                "image": images,
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


def _with_images(samples: Iterable[Sample], size: int, room: int = 0) -> Iterator[tuple[list[Sample], Tensor]]:
    """Groups of ``size`` samples, and their images, taken out of them, uint8 (b, 3, H, W). ``room`` as of ``empty_batch``."""
    iterator = iter(samples)
    while True:
        group, batch = [], ImageBatch(size, _TOGETHER, room)
        for sample in itertools.islice(iterator, size):
            batch.add(sample.pop("image"))
            group.append(sample)
        if not group:
            return
        yield group, batch.finished()


def _int64(group: list[Sample], key: str) -> Tensor:
    return torch.tensor([sample[key] for sample in group], dtype=torch.int64)


def _files(images: list[EncodedImage], host: FastTrainTransform) -> Batch:
    layout = layout_of(images, host)
    return {"encoded_files": _joined(images), "pixels": finished_pixels(images, layout.side), "layout": layout}


def _joined(images: list[EncodedImage]) -> Tensor:
    """The bytes of all files, uint8 (bytes,); in a worker, directly in the memory from which the parent takes them."""
    total = sum(len(image.data) for image in images)
    joined = empty_batch((total,), int(_ROOM_FOR_FILES * total)) if total else torch.empty(0, dtype=torch.uint8)
    view, start = joined.numpy(), 0
    for image in images:
        view[start : start + len(image.data)] = np.frombuffer(image.data, np.uint8)
        start += len(image.data)
    return joined
