"""Pillow's image operations on many images of a batch at once, each with a strength of its own, on any device.

What ``image_operations`` does on the host, in whole numbers where Pillow computes in whole numbers and in double
precision where it does (see ``docs/augmentation.md`` for measured parity). Nothing here asks the device anything, and
every function is one that ``torch.compile`` makes a few kernels of, whatever the number of images.

``images`` is a batch, uint8 (b, 3, H, W), that is left alone; ``index``, int64 (n,), says which of its images are meant.
Functions return these images, uint8 (n, 3, H, W), or tables of levels for them, uint8 (n, 3, 256).
"""

from __future__ import annotations

import functools

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

# Red, green, blue in a grey level, in 1/65536 (ITU-R 601 as Pillow rounds it).
_GREY_WEIGHTS = (19595, 38470, 7471)
# A histogram is counted in so many parts, so that neighbouring pixels, which are often alike, do not wait for each other.
_PARTS = 16
_HALF = 1 << 23  # of the fixed-point numbers of ``blur``


def flip(images: Tensor, flips: Tensor) -> Tensor:
    """All images of the batch, those for which ``flips``, uint8 (b,), is not 0 mirrored: a new tensor."""
    return torch.where(flips.bool()[:, None, None, None], images.flip(-1), images)


def look_up(images: Tensor, index: Tensor, tables: Tensor) -> Tensor:
    """Each level replaced by what the image's table, uint8 (n, 3, 256), has for it."""
    chosen = images[index]
    return tables.gather(2, chosen.flatten(2).long()).view_as(chosen)


def contrast_tables(images: Tensor, index: Tensor, factor: Tensor) -> Tensor:
    """``ImageEnhance.Contrast``; ``factor`` (n, 1) float64."""
    total = _grey(images[index]).flatten(1).sum(1, keepdim=True)  # n 1, int64
    pixels = images.shape[2] * images.shape[3]
    mean = (2 * total + pixels) // (2 * pixels)
    levels = torch.arange(256, device=images.device).expand(len(index), 256)
    return _blend(mean.expand_as(levels), levels, factor)[:, None].expand(-1, 3, -1)


def auto_contrast_tables(images: Tensor, index: Tensor, stretches: Tensor) -> Tensor:
    """``ImageOps.autocontrast``; ``stretches`` as of ``stretch_tables``."""
    chosen = images[index].flatten(2)
    return stretches[chosen.amin(2).long(), chosen.amax(2).long()]


def stretch_tables() -> Tensor:
    """The table that makes 0..255 of any range of levels, as Pillow's doubles do: uint8 (256 low, 256 high, 256 levels).

    16 MiB: a compiler for a device may round a product and a sum at once, which would move levels on the edge.
    """
    return torch.from_numpy(_stretch_tables())


@functools.cache
def _stretch_tables() -> NDArray[np.uint8]:
    levels = np.arange(256)
    result = np.empty((256, 256, 256), np.uint8)
    for low in range(256):
        width = np.maximum(levels - low, 1)[:, None]  # of the range low..high, by high
        scale = np.where(levels[:, None] > low, 255 / width, 1.0)
        offset = np.where(levels[:, None] > low, -low * scale, 0.0)
        result[low] = np.clip(np.trunc(levels * scale + offset), 0, 255)
    return result


def equalize_tables(images: Tensor, index: Tensor) -> Tensor:
    """``ImageOps.equalize``."""
    chosen = images[index].flatten(2)  # n 3 P
    count, _, pixels = chosen.shape
    levels = torch.arange(256, device=images.device)
    planes = torch.arange(3 * count, device=images.device).view(count, 3, 1)
    part = torch.arange(pixels, device=images.device) % _PARTS
    cell = ((planes * _PARTS + part) * 256 + chosen).flatten()
    counted = torch.zeros(3 * count * _PARTS * 256, dtype=torch.int32, device=images.device)
    counted = counted.scatter_add(0, cell, torch.ones_like(cell, dtype=torch.int32))
    histogram = counted.view(count, 3, _PARTS, 256).sum(2)  # n 3 256, int64
    highest = ((histogram > 0) * levels).amax(2, keepdim=True)
    step = (pixels - histogram.gather(2, highest)) // 255
    before = histogram.cumsum(2) - histogram
    table = ((step // 2 + before) // step.clamp(min=1)).clamp(max=255)
    return torch.where(step > 0, table, levels).to(torch.uint8)


def recolor(images: Tensor, index: Tensor, factor: Tensor) -> Tensor:
    """``ImageEnhance.Color``; ``factor`` (n, 1) float64."""
    chosen = images[index]
    return _blend(_grey(chosen)[:, None].expand_as(chosen), chosen, factor[:, :, None, None])


def sharpen(images: Tensor, index: Tensor, factor: Tensor) -> Tensor:
    """``ImageEnhance.Sharpness``; ``factor`` (n, 1) float64; the border stays as it is."""
    chosen = images[index].to(torch.int32)
    height, width = chosen.shape[2:]
    row, column = torch.arange(height, device=images.device)[:, None], torch.arange(width, device=images.device)
    total = 4 * chosen
    for down in (-1, 0, 1):
        for right in (-1, 0, 1):
            total = total + chosen[:, :, (row + down).clamp(0, height - 1), (column + right).clamp(0, width - 1)]
    inside = (row > 0) & (row < height - 1) & (column > 0) & (column < width - 1)
    smooth = torch.where(inside, (2 * total + 13) // 26, chosen)
    return _blend(smooth, chosen, factor[:, :, None, None])


def resample(images: Tensor, index: Tensor, places: Tensor, fill: Tensor, cubic: bool) -> Tensor:
    """``transform(AFFINE)``: rotation, shear and translation.

    Args:
        images, index: as of the module.
        places: float64 (n, 6): the middle of pixel (x, y) of the result is a x + b y + c, d x + e y + f in the image.
        fill: uint8 (3,), the colour outside of the image.
        cubic: with Pillow's cubic kernel (a = -1), else linear.
    """
    channels, height, width = images.shape[1:]
    x = torch.arange(width, dtype=torch.float64, device=images.device) + 0.5
    y = (torch.arange(height, dtype=torch.float64, device=images.device) + 0.5)[:, None]
    # Places are computed for each channel anew: for all of them at once, a compiler would make a kernel of its own, and
    # write and read 128 bytes a pixel.
    a, b, c, d, e, f = places[:, :, None, None, None].expand(-1, -1, channels, 1, 1).unbind(1)  # n 3 1 1 each
    across, down = a * x + b * y + c, d * x + e * y + f  # n 3 H W
    inside = (across >= 0) & (across < width) & (down >= 0) & (down < height)
    left, top = (across - 0.5).floor(), (down - 0.5).floor()
    dx, dy = (across - 0.5) - left, (down - 0.5) - top
    first_column, first_row = left.to(torch.int32), top.to(torch.int32)
    number = index[:, None, None, None]
    channel = torch.arange(channels, device=images.device)[:, None, None]

    def level(row: int, column: int) -> Tensor:
        """What is so many pixels down and right of the place, or the last pixel before the image ends; n 3 H W."""
        rows, columns = (first_row + row).clamp(0, height - 1), (first_column + column).clamp(0, width - 1)
        return images[number, channel, rows, columns].to(torch.float64)

    if cubic:
        rows = [_cubic([level(row, column) for column in range(-1, 3)], dx) for row in range(-1, 3)]
        value = _cubic(rows, dy).clamp(0, 255)
    else:
        upper, lower = (level(row, 0) + (level(row, 1) - level(row, 0)) * dx for row in range(2))
        value = upper + (lower - upper) * dy
    return torch.where(inside, value.to(torch.uint8), fill[:, None, None])


def blur(images: Tensor, index: Tensor, weights: Tensor) -> Tensor:
    """``ImageFilter.GaussianBlur``: three box blurs along rows, then three along columns, each rounded to levels.

    ``weights`` (n, 3) are those of the middle, of its neighbours and of theirs, in 1 / 2^24.
    """
    values = images[index]
    middle, near, far = weights.to(torch.int32)[:, :, None, None, None].unbind(1)  # n 1 1 1 each
    for axis in (3, 3, 3, 2, 2, 2):
        line = torch.arange(values.shape[axis], device=values.device)
        one_before, one_after, two_before, two_after = (
            values.index_select(axis, (line + offset).clamp(0, values.shape[axis] - 1)).to(torch.int32)
            for offset in (-1, 1, -2, 2)
        )
        total = middle * values + near * (one_before + one_after) + far * (two_before + two_after)
        # 32 bits hold the sum as if they had no sign; of what the shift brings in, uint8 keeps nothing.
        values = ((total + _HALF) >> 24).to(torch.uint8)
    return values


def _grey(images: Tensor) -> Tensor:
    """``convert("L")``: (n, H, W), int32."""
    red, green, blue = images.to(torch.int32).unbind(1)
    weighted = red * _GREY_WEIGHTS[0] + green * _GREY_WEIGHTS[1] + blue * _GREY_WEIGHTS[2]
    return (weighted + (1 << 15)) >> 16


def _blend(first: Tensor, second: Tensor, factor: Tensor) -> Tensor:
    """``Image.blend``: first + factor * (second - first), cut off to 0..255, in Pillow's float32.

    The product is exact in float64 and rounded by itself, so that a compiler cannot make one rounding of two.
    """
    difference = second.to(torch.float64) - first
    mixed = (factor * difference).to(torch.float32) + first
    return mixed.clamp(0, 255).to(torch.uint8)


def _cubic(values: list[Tensor], d: Tensor) -> Tensor:
    """The cubic (a = -1) through four neighbours at the fraction ``d`` from the second to the third.

    In the form that leaves an even area even, whatever the fraction.
    """
    first, second, third, fourth = values
    linear = third - first
    square = 2 * (first - second) + third - fourth
    cube = second - first + fourth - third
    return second + d * (linear + d * (square + d * cube))
