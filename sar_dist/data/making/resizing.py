"""Smaller images for new shards: decoding and resizing them once instead of in every epoch of every run.

An image whose short side is larger than asked for is decoded as in training (stored pixels, EXIF orientation left alone,
alpha dropped), resized with Pillow's antialiased bicubic filter, of which training's is the counterpart on tensors, and
written as JPEG; grey ones stay grey. Pillow computes it in integers, so that the bytes do not depend on the machine's vector
units, threads or processes. All other bytes stay as they are.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping
from multiprocessing import get_context
from typing import Any

import numpy as np
from PIL import Image

from sar_dist.config import DataSettings
from sar_dist.data.images import UndecodableImage, decode_pil, jpeg_size
from sar_dist.data.layout import image_member, is_image_name
from sar_dist.data.making.sources import Source
from sar_dist.data.shards import Resizing, resizing_content
from sar_dist.errors import UserError
from sar_dist.output import warn

_JPEG = "jpg"
_LONGEST_JPEG_SIDE = 65500
# Samples from which the size of the result is estimated.
_PROBES = 24
_SHOWN = 20
# What can become of an image.
_OUTCOMES = _RESIZED, _SMALL, _UNUSABLE = range(3)


def resized_image(data: bytes, resizing: Resizing, max_pixels: int) -> bytes | None:
    """The image file, made smaller; None where its short side is small enough already.

    Args:
        data: bytes of an image file in any format that Pillow reads.
        resizing: the short side to keep to, pixels, and the JPEG quality.
        max_pixels: images that have more are refused before decoding.

    Raises:
        UndecodableImage: damaged, too large, or so long that no JPEG could hold the result.
    """
    size = jpeg_size(data)
    if size is not None and min(size) <= resizing.max_short_side:
        return None
    image = decode_pil(data, max_pixels)
    short = min(image.size)
    if short <= resizing.max_short_side:
        return None
    width, height = (max(1, round(side * resizing.max_short_side / short)) for side in image.size)
    if max(width, height) > _LONGEST_JPEG_SIDE:
        raise UndecodableImage(f"{width}x{height} pixels are more than a JPEG can hold")
    smaller = image.resize((width, height), Image.Resampling.BICUBIC)
    out = io.BytesIO()
    _one_channel_if_grey(smaller).save(out, "JPEG", quality=resizing.quality, subsampling="4:2:0")
    return out.getvalue()


def _one_channel_if_grey(image: Image.Image) -> Image.Image:
    red, green, blue = (np.asarray(channel) for channel in image.split())
    grey = np.array_equal(red, green) and np.array_equal(green, blue)
    return image.getchannel(0) if grey else image


class ResizedSource(Source):
    """The samples of another source with smaller images; labels and other members stay, an image becomes a member ``jpg``.

    An image that cannot be decoded stays as it is, counted and named: what becomes of it is decided in training. Raises
    UserError for a sample with a second image, such as a mask, that would no longer fit the first.
    """

    def __init__(self, source: Source, resizing: Resizing, max_pixels: int = DataSettings().max_pixels) -> None:
        self.split = source.split
        self.classes = source.classes
        self.words = source.words
        self.resized = (*source.resized, resizing)
        self._source = source
        self._resizing = resizing
        self._max_pixels = max_pixels
        # Shared by the processes that write; they are forked.
        self._counts = get_context("fork").Array("q", len(_OUTCOMES))

    def __len__(self) -> int:
        return len(self._source)

    def sample(self, number: int) -> tuple[str, Mapping[str, bytes]]:
        key, members = self._source.sample(number)
        try:
            smaller = self._with_smaller_image(key, members)
        except UndecodableImage as problem:
            if self._count(_UNUSABLE) <= _SHOWN:
                warn(f"{key} stays as it is: {problem}")
            return key, members
        self._count(_SMALL if smaller is None else _RESIZED)
        return key, members if smaller is None else smaller

    def _count(self, outcome: int) -> int:
        with self._counts.get_lock():
            self._counts[outcome] += 1
            return self._counts[outcome]

    def _with_smaller_image(self, key: str, members: Mapping[str, bytes]) -> Mapping[str, bytes] | None:
        """The members with the image resized; None if it is small enough. Raises UndecodableImage, UserError."""
        image = image_member(members)
        if image is None:
            raise UndecodableImage("no image")
        smaller = resized_image(members[image], self._resizing, self._max_pixels)
        if smaller is None:
            return None
        others = [name for name in members if name != image and is_image_name(f"{key}.{name}")]
        if others:
            raise UserError(
                f"sample {key} has a second image, {others[0]}, that would no longer fit its {image} if that were resized; "
                "make such shards without --max-short-side"
            )
        renamed = {_JPEG if name == image else name: data for name, data in members.items()}
        return renamed | {_JPEG: smaller}

    def description(self) -> dict[str, Any]:
        return self._source.description()

    def digest(self) -> str:
        return f"{self._source.digest()} {resizing_content(self.resized)}"

    def size(self) -> int:
        """As that of the source, times what samples spread over it shrink by."""
        before = after = 0
        for number in sorted({len(self) * k // _PROBES for k in range(_PROBES)}):
            key, members = self._source.sample(number)
            with contextlib.suppress(UndecodableImage):
                smaller = self._with_smaller_image(key, members) or members
                before += sum(map(len, members.values()))
                after += sum(map(len, smaller.values()))
        return self._source.size() * after // before if before else self._source.size()

    @property
    def prefix(self) -> str:
        return self._source.prefix

    def order(self, seed: int) -> np.ndarray:
        return self._source.order(seed)

    def shards(self, samples_per_shard: int) -> list[tuple[str, int]]:
        return self._source.shards(samples_per_shard)

    def forget_counts(self) -> None:
        self._counts[:] = [0] * len(_OUTCOMES)

    def remarks(self) -> str | None:
        made, small, unusable = self._counts[:]
        bad = f", {unusable} without an image that can be decoded left as they are" if unusable else ""
        return f"{made} images resized ({self._resizing}), {small} no larger than that{bad}"
