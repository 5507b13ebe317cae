"""Where a core's time goes between a shard and a batch, measured on the run's own images, and what would save most of it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import torch

from sar_dist.config import RunConfig, height_and_width
from sar_dist.data import DeviceDecoder, DeviceRefused, TrainLoader
from sar_dist.data.images import (
    DrawnImage,
    EncodedBatch,
    EncodedImage,
    EncodedTrainTransform,
    FastTrainTransform,
    Transform,
    UndecodableImage,
    build_train_transform,
    decode_box,
    decode_image,
    decode_pil,
    finished_pixels,
    layout_of,
)
from sar_dist.data.making import resized_image
from sar_dist.data.shards import Resizing
from sar_dist.randomness import kept_generators, seed_generators

Item = TypeVar("Item")

IMAGES = 128
_WARM_UP = 4
# A remedy that saves less is not named.
_LEAST_SAVING = 0.05


@dataclass(frozen=True)
class Remedy:
    """Something to do, and the CPU milliseconds that an image takes then, reading and batching included."""

    what: str
    milliseconds: float


@dataclass(frozen=True)
class StageCosts:
    """CPU milliseconds an image takes on one core, by stage.

    Attributes:
        read: from the shard, with its checksum.
        decode: to RGB.
        resize: random resized crop, flip.
        operations: RandAugment, 3-Augment, jitter in the data worker.
        batch: putting batches together, handing them over, and what else the whole loader took; 0 where it was not measured.
        remedies: what would make it less, the best first.
        device: with ``data.decoder=gpu``, milliseconds of wall-clock time in which the device decodes, crops and resizes an
            image; None: workers do. Then ``decode`` is what its host thread takes, ``resize`` to check a file and draw its crop.
    """

    read: float
    decode: float
    resize: float
    operations: float
    batch: float
    remedies: tuple[Remedy, ...]
    device: float | None = None

    @property
    def total(self) -> float:
        return self.read + self.decode + self.resize + self.operations + self.batch

    def __str__(self) -> str:
        if self.device is not None:
            return (
                f"read {self.read:.2f}, check and draw the crop {self.resize:.2f}, start the device's decoder {self.decode:.2f}, "
                f"batch and the rest {self.batch:.2f}; the device decodes, crops and resizes one in {self.device:.2f} ms"
            )
        return (
            f"read {self.read:.2f}, decode {self.decode:.2f}, crop and resize {self.resize:.2f}, "
            f"operations {self.operations:.2f}, batch and the rest {self.batch:.2f}"
        )


def measure_stages(
    config: RunConfig,
    loader: TrainLoader,
    device: torch.device,
    *,
    batch: int = 0,
    total: float | None = None,
    images: int = IMAGES,
) -> StageCosts:
    """Measure the stages on this thread, one after the other; a second or two. Changes no random numbers of the run.

    Args:
        config: the run's.
        loader: its training loader.
        device: that trains; operations are moved to it only if it is not the CPU that the workers share. With
            ``data.decoder=gpu`` it decodes.
        batch: global batch from which on images are taken.
        total: CPU milliseconds an image of the whole loader, to tell what batches cost; None: not known.
        images: how many.
    """
    with _on_one_thread():
        begin = time.thread_time()
        encoded = loader.encoded(batch, images)
        read = 1e3 * (time.thread_time() - begin) / max(1, len(encoded))
        if config.data.decoder == "gpu":
            checked, started, on_device = _device_milliseconds(config, encoded, device)
            rest = 0.0 if total is None else max(0.0, total - read - checked - started)
            return StageCosts(read, started, checked, 0.0, rest, (), on_device)
        decode = _decode_milliseconds(config, encoded)
        plain = _transform_milliseconds(config, encoded, plain=True)
        # Without operations the two are one transform, measured twice.
        whole = max(plain, _transform_milliseconds(config, encoded)) if _has_operations(config) else plain
        rest = 0.0 if total is None else max(0.0, total - read - whole)
        options = _remedies(config, encoded, device, plain)
    remedies = [Remedy(what, read + rest + milliseconds) for what, milliseconds in options]
    least = (1 - _LEAST_SAVING) * (read + whole + rest)
    remedies = sorted((each for each in remedies if each.milliseconds <= least), key=lambda each: each.milliseconds)
    decode = min(decode, plain)
    return StageCosts(read, decode, plain - decode, whole - plain, rest, tuple(remedies))


def _decode_milliseconds(config: RunConfig, encoded: Sequence[bytes]) -> float:
    """CPU milliseconds that decoding an image takes, as far as its crop needs it."""
    transform = build_train_transform(config.augment, config.model.image_size, config.data.max_pixels)
    limit = config.data.max_pixels
    if not isinstance(transform, FastTrainTransform):
        return _milliseconds(lambda data: decode_pil(data, limit), encoded)
    seed_generators(0)
    drawn = [(data, transform.drawn_ahead(data)) for data in encoded]
    return _milliseconds(lambda each: _decoded(*each, limit), drawn)


def _decoded(data: bytes, drawn: DrawnImage | None, max_pixels: int) -> object:
    if drawn is None:
        return decode_image(data, max_pixels)
    return decode_box(data, max_pixels, drawn.size, drawn.box)


def _has_operations(config: RunConfig) -> bool:
    augment = config.augment
    return augment.where != "device" and any((augment.rand_augment, augment.three_augment, augment.color_jitter))


def _remedies(
    config: RunConfig, encoded: Sequence[bytes], device: torch.device, plain: float
) -> Iterator[tuple[str, float]]:
    """What can be changed, with the CPU milliseconds that the transform takes then."""
    augment = config.augment
    side = math.floor(max(height_and_width(config.model.image_size)) / augment.crop_fraction)
    smaller = list(_resized(encoded, Resizing(side), config.data.max_pixels))
    if any(new is not old for new, old in zip(smaller, encoded, strict=True)):
        command = f"tools/make_shards.py shards SRC OUT --max-short-side {side}"
        yield f"train on smaller images ({command})", _transform_milliseconds(config, smaller)
    if augment.backend == "pil":
        yield "set augment.backend=fast", _transform_milliseconds(config, encoded, backend="fast")
    elif device.type != "cpu" and _has_operations(config):
        yield "set augment.where=device", plain


def _resized(encoded: Sequence[bytes], resizing: Resizing, max_pixels: int) -> Iterator[bytes]:
    for data in encoded:
        smaller = None
        with suppress(UndecodableImage):
            smaller = resized_image(data, resizing, max_pixels)
        yield data if smaller is None else smaller


def _transform_milliseconds(
    config: RunConfig, encoded: Sequence[bytes], *, plain: bool = False, backend: str | None = None
) -> float:
    """CPU milliseconds an image of the training transform; ``plain``: of its crop and flip alone."""
    changes: dict[str, object] = {} if backend is None else {"backend": backend}
    if plain:
        changes |= {"rand_augment": None, "three_augment": False, "color_jitter": 0.0}
    augment = config.augment.model_copy(update=changes)
    transform = build_train_transform(augment, config.model.image_size, config.data.max_pixels)
    return _milliseconds(partial(_transformed, transform), encoded)


def _transformed(transform: Transform, data: bytes) -> object:
    """As in a data worker."""
    if isinstance(transform, FastTrainTransform):
        drawn = transform.drawn_ahead(data)
        image = None if drawn is None else transform.decoded(data, drawn)
        if image is not None:
            return image.finished()
    return transform(data)


def _device_milliseconds(
    config: RunConfig, encoded: Sequence[bytes], device: torch.device
) -> tuple[float, float, float]:
    """Milliseconds an image takes where the device decodes: CPU time of checking it and drawing its crop, CPU time of the
    thread that starts the decoder, wall-clock time until the device is done. The last two are of whole micro-batches."""
    host = build_train_transform(config.augment, config.model.image_size, config.data.max_pixels)
    assert isinstance(host, FastTrainTransform)
    transform = EncodedTrainTransform(host)
    checked = _milliseconds(transform, encoded)
    images: list[EncodedImage] = []
    for data in encoded:
        with suppress(UndecodableImage):
            images.append(transform(data))
    parts = [
        images[start : start + config.engine.micro_batch] for start in range(0, len(images), config.engine.micro_batch)
    ]
    batches = [_encoded_batch(part, host) for part in parts if any(image.pixels is None for image in part)]
    decoder = DeviceDecoder(device)
    begin = (0.0, 0.0)
    for batch in (*batches[:1], None, *batches):
        if batch is None:
            begin = time.thread_time(), time.perf_counter()
            continue
        with suppress(DeviceRefused):
            decoder(batch).wait()
    decoded = max(1, sum(batch.layout.images for batch in batches))
    return checked, 1e3 * (time.thread_time() - begin[0]) / decoded, 1e3 * (time.perf_counter() - begin[1]) / decoded


def _encoded_batch(images: Sequence[EncodedImage], host: FastTrainTransform) -> EncodedBatch:
    layout = layout_of(images, host)
    files = torch.frombuffer(bytearray(b"".join(image.data for image in images)), dtype=torch.uint8)
    return EncodedBatch(files, finished_pixels(images, layout.side), layout)


def _milliseconds(action: Callable[[Item], object], items: Sequence[Item]) -> float:
    """CPU milliseconds an item. Over all images, once each, as in training; every action begins with the same random numbers."""
    begin = 0.0
    for item in (*items[:_WARM_UP], None, *items):
        if item is None:
            seed_generators(0)
            begin = time.thread_time()
            continue
        with suppress(UndecodableImage):
            action(item)
    return 1e3 * (time.thread_time() - begin) / max(1, len(items))


@contextmanager
def _on_one_thread() -> Iterator[None]:
    """As in a data worker: without torch's threads. The generators are left as they were."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with kept_generators():
            yield
    finally:
        torch.set_num_threads(threads)
