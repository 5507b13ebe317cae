"""Images whose decoding is left to the device: what a data worker draws and sends instead of pixels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sar_dist.config import height_and_width
from sar_dist.data.images.augment import FastTrainTransform, random_crop_box
from sar_dist.data.images.device_resize import Box
from sar_dist.data.images.image_operations import Interpolation
from sar_dist.data.images.sound_jpeg import NotSound, sound_jpeg


@dataclass(frozen=True)
class EncodedImage:
    """A training image before its last steps.

    Attributes:
        data: the whole JPEG; empty where this process has decoded it.
        size: (height, width) of its pixels.
        box: what is kept of them.
        pixels: uint8 (3, S, S), cropped and resized, if this process has decoded it.
        reason: why it has.
    """

    data: bytes = b""
    size: tuple[int, int] = (0, 0)
    box: Box = (0, 0, 0, 0)
    pixels: Tensor | None = None
    reason: str = ""


@dataclass(frozen=True)
class EncodedTrainTransform:
    """As ``host``, with the same draws, but a JPEG that suits a hardware decoder stays as it is."""

    host: FastTrainTransform

    def __call__(self, data: bytes) -> EncodedImage:
        """Raises UndecodableImage."""
        try:
            jpeg = sound_jpeg(data)
            if jpeg.height * jpeg.width > self.host.max_pixels:
                raise NotSound("too large")
        except NotSound as reason:
            return EncodedImage(pixels=self.host(data), reason=str(reason))
        augment = self.host.augment
        box = random_crop_box(jpeg.height, jpeg.width, augment.scale, augment.ratio)
        return EncodedImage(data, (jpeg.height, jpeg.width), box)


@dataclass(frozen=True)
class EncodedLayout:
    """What the bytes of a batch mean.

    Attributes:
        places: in the batch, of the images that are JPEGs; the others are pixels, in their order.
        lengths, sizes, boxes: of each JPEG: bytes, (height, width), crop.
        images: of the batch.
        side: S, of every image in the end, pixels.
        interpolation: of the resize.
        reasons: why images are pixels, and how many.
    """

    places: tuple[int, ...]
    lengths: tuple[int, ...]
    sizes: tuple[tuple[int, int], ...]
    boxes: tuple[Box, ...]
    images: int
    side: int
    interpolation: Interpolation
    reasons: Counter[str]


@dataclass(frozen=True)
class EncodedBatch:
    """A batch on the host: its JPEGs, uint8 (bytes,); its finished images, uint8 (k, 3, S, S); what they mean."""

    data: Tensor
    pixels: Tensor
    layout: EncodedLayout

    def files(self) -> list[Tensor]:
        """Each JPEG, uint8 (bytes,), a view."""
        return list(self.data.split(self.layout.lengths))


def layout_of(images: Sequence[EncodedImage], host: FastTrainTransform) -> EncodedLayout:
    """The layout of a batch of the images that ``EncodedTrainTransform(host)`` gave."""
    places = tuple(place for place, image in enumerate(images) if image.pixels is None)
    chosen = [images[place] for place in places]
    return EncodedLayout(
        places,
        tuple(len(image.data) for image in chosen),
        tuple(image.size for image in chosen),
        tuple(image.box for image in chosen),
        len(images),
        height_and_width(host.image_size)[0],
        host.augment.interpolation,
        Counter(image.reason for image in images if image.pixels is not None),
    )


def finished_pixels(images: Sequence[EncodedImage], side: int) -> Tensor:
    """uint8 (k, 3, S, S) of the images that are decoded already, in their order."""
    pixels = [image.pixels for image in images if image.pixels is not None]
    return torch.stack(pixels) if pixels else torch.empty(0, 3, side, side, dtype=torch.uint8)
