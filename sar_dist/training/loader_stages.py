"""Where a core's time goes between a shard and a batch, measured on the run's own images, and what would save most of it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import torch

from sar_dist.config import RunConfig
from sar_dist.data import TrainLoader
from sar_dist.data.images import UndecodableImage, build_train_transform, decode_image, decode_pil
from sar_dist.data.making import resized_image
from sar_dist.data.shards import Resizing
from sar_dist.randomness import kept_generators, seed_generators

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
    """

    read: float
    decode: float
    resize: float
    operations: float
    batch: float
    remedies: tuple[Remedy, ...]

    @property
    def total(self) -> float:
        return self.read + self.decode + self.resize + self.operations + self.batch

    def __str__(self) -> str:
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
        device: on which it trains; what is of no use there is not named as a remedy.
        batch: global batch from which on images are taken.
        total: CPU milliseconds an image of the whole loader, to tell what batches cost; None: not known.
        images: how many.
    """
    with _on_one_thread():
        begin = time.thread_time()
        encoded = loader.encoded(batch, images)
        read = 1e3 * (time.thread_time() - begin) / max(1, len(encoded))
        decoder = decode_pil if config.augment.backend == "pil" else decode_image
        decode = _milliseconds(lambda data: decoder(data, config.data.max_pixels), encoded)
        plain = _transform_milliseconds(config, encoded, plain=True)
        whole = max(plain, _transform_milliseconds(config, encoded))
        rest = 0.0 if total is None else max(0.0, total - read - whole)
        options = _remedies(config, encoded, plain, whole, on_gpu=device.type == "cuda")
    remedies = [Remedy(what, read + rest + milliseconds) for what, milliseconds in options]
    least = (1 - _LEAST_SAVING) * (read + whole + rest)
    remedies = sorted((each for each in remedies if each.milliseconds <= least), key=lambda each: each.milliseconds)
    decode = min(decode, plain)
    return StageCosts(read, decode, plain - decode, whole - plain, rest, tuple(remedies))


def _remedies(
    config: RunConfig, encoded: Sequence[bytes], plain: float, whole: float, *, on_gpu: bool
) -> Iterator[tuple[str, float]]:
    """What can be changed on this machine, with the CPU milliseconds that the transform takes then.

    Without a GPU the device is the processor itself, and would only do the operations in another process.
    """
    augment = config.augment
    side = math.floor(config.model.image_size / augment.crop_fraction)
    smaller = list(_resized(encoded, Resizing(side), config.data.max_pixels))
    if any(new is not old for new, old in zip(smaller, encoded, strict=True)):
        command = f"tools/make_shards.py shards SRC OUT --max-short-side {side}"
        yield f"train on smaller images ({command})", _transform_milliseconds(config, smaller)
    if augment.backend == "pil":
        yield "set augment.backend=fast", _transform_milliseconds(config, encoded, backend="fast")
    elif whole > plain and augment.where != "device" and on_gpu:
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
    return _milliseconds(build_train_transform(augment, config.model.image_size, config.data.max_pixels), encoded)


def _milliseconds(action: Callable[[bytes], object], encoded: Sequence[bytes]) -> float:
    """Over all images, once each, as in training; every action begins with the same random numbers."""
    begin = 0.0
    for data in (*encoded[:_WARM_UP], None, *encoded):
        if data is None:
            seed_generators(0)
            begin = time.thread_time()
            continue
        with suppress(UndecodableImage):
            action(data)
    return 1e3 * (time.thread_time() - begin) / max(1, len(encoded))


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
