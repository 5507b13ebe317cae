"""Pillow's image operations on uint8 arrays (3, H, W), by look-up tables, OpenCV and numpy.

Each function gives what the Pillow call named in its first line gives, bit for bit or within one grey level where a
float sum sits on the edge of two levels (see ``docs/augmentation.md`` for measured parity and cost). None changes its
argument. All take and return C-contiguous arrays.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import cv2
import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from PIL import Image

ImageArray = NDArray[np.uint8]  # 3 H W
Interpolation = Literal["bilinear", "bicubic"]

_LEVELS = np.arange(256)
# Red, green, blue in a grey level, in 1/65536 (ITU-R 601 as Pillow rounds it).
_GREY_WEIGHTS = np.array([[19595, 38470, 7471]], dtype=np.float32)
# cv2 rounds where Pillow truncates: a little less than a half is subtracted first.
_TRUNCATE = -0.4999


def planes_of(pixels: NDArray[np.uint8]) -> ImageArray:
    """Interleaved pixels (H, W, 3) as planes (3, H, W)."""
    planes = np.empty((3, *pixels.shape[:2]), dtype=np.uint8)
    cv2.split(pixels, list(planes))
    return planes


def flip_horizontally(image: ImageArray) -> ImageArray:
    """``ImageOps.mirror``."""
    flipped = cv2.flip(image.reshape(-1, image.shape[-1]), 1)
    return np.asarray(flipped, np.uint8).reshape(image.shape)


def grey(image: ImageArray) -> ImageArray:
    """``convert("L")``: (H, W). Sums stay below 2 ** 24, so float32 holds them exactly."""
    weighted = _GREY_WEIGHTS @ image.reshape(3, -1).astype(np.float32)
    return ((weighted.astype(np.int32) + 32768) >> 16).astype(np.uint8).reshape(image.shape[1:])


def invert(image: ImageArray) -> ImageArray:
    """``ImageOps.invert``."""
    return np.invert(image)


def auto_contrast(image: ImageArray) -> ImageArray:
    """``ImageOps.autocontrast``: stretches each channel to 0..255."""
    tables = []
    for plane in image:
        low, high = int(plane.min()), int(plane.max())
        scale = 255 / (high - low) if high > low else 1.0
        offset = -low * scale if high > low else 0.0
        tables.append(np.clip(np.trunc(_LEVELS * scale + offset), 0, 255))
    return _look_up_each(image, tables)


def equalize(image: ImageArray) -> ImageArray:
    """``ImageOps.equalize``: flattens the histogram of each channel."""
    tables = []
    for plane in image:
        histogram = cv2.calcHist([plane], [0], None, [256], [0, 256]).ravel().astype(np.int64)
        step = (plane.size - histogram[int(plane.max())]) // 255
        before = np.concatenate([[0], np.cumsum(histogram)[:-1]])
        tables.append((step // 2 + before) // step if step else _LEVELS)
    return _look_up_each(image, tables)


def posterize(image: ImageArray, bits: int) -> ImageArray:
    """``ImageOps.posterize``: keeps the high 1 to 8 bits; fewer than 1, which Pillow 13 refuses, count as 1."""
    return image & np.uint8(0xFF << (8 - max(bits, 1)) & 0xFF)


def solarize(image: ImageArray, threshold: int) -> ImageArray:
    """``ImageOps.solarize``: inverts levels from the threshold upwards."""
    return _look_up(image, np.where(threshold > _LEVELS, _LEVELS, 255 - _LEVELS))


def solarize_add(image: ImageArray, amount: int) -> ImageArray:
    """timm's ``solarize_add``: brightens levels below 128."""
    return _look_up(image, np.where(_LEVELS < 128, np.minimum(255, _LEVELS + amount), _LEVELS))


def brightness(image: ImageArray, factor: float) -> ImageArray:
    """``ImageEnhance.Brightness``: 0 is black, 1 the image."""
    return _look_up(image, _blend_table(0, factor))


def contrast(image: ImageArray, factor: float) -> ImageArray:
    """``ImageEnhance.Contrast``: 0 is the mean grey, 1 the image."""
    return _look_up(image, _blend_table(int(grey(image).mean() + 0.5), factor))


def color(image: ImageArray, factor: float) -> ImageArray:
    """``ImageEnhance.Color``: 0 is the grey image, 1 the image."""
    return _blend(np.broadcast_to(grey(image), image.shape), image, factor)


def sharpness(image: ImageArray, factor: float) -> ImageArray:
    """``ImageEnhance.Sharpness``: 0 is smoothed, 1 the image, above 1 sharpened; the border stays as it is."""
    if min(image.shape[1:]) < 3:
        return image
    kernel = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]], dtype=np.float32) / 13
    smooth = image.copy()
    for plane, source in zip(smooth, image, strict=True):
        plane[1:-1, 1:-1] = cv2.filter2D(source, -1, kernel)[1:-1, 1:-1]
    return _blend(smooth, image, factor)


def gaussian_blur(image: ImageArray, radius: float) -> ImageArray:
    """``ImageFilter.GaussianBlur``: three box blurs along rows, then three along columns, each rounded to levels."""
    kernel = _box_kernel(radius / math.sqrt(3))[None]
    rows: NDArray[Any] = image.reshape(-1, image.shape[-1])
    for _ in range(3):
        rows = cv2.filter2D(rows, -1, kernel, borderType=cv2.BORDER_REPLICATE)
    planes: NDArray[Any] = rows.reshape(image.shape)
    for _ in range(3):
        planes = np.stack([cv2.filter2D(plane, -1, kernel.T, borderType=cv2.BORDER_REPLICATE) for plane in planes])
    return planes


def translate_x(image: ImageArray, pixels: float, fill: Sequence[int], interpolation: Interpolation) -> ImageArray:
    """``transform(AFFINE, (1, 0, pixels, 0, 1, 0))``: moves to the left by ``pixels``."""
    return _shift_rows(image, np.full(image.shape[1], pixels, dtype=np.float64), fill, interpolation)


def translate_y(image: ImageArray, pixels: float, fill: Sequence[int], interpolation: Interpolation) -> ImageArray:
    """``transform(AFFINE, (1, 0, 0, 0, 1, pixels))``: moves up by ``pixels``."""
    return _transposed(translate_x(_transposed(image), pixels, fill, interpolation))


def shear_x(image: ImageArray, factor: float, fill: Sequence[int], interpolation: Interpolation) -> ImageArray:
    """``transform(AFFINE, (1, factor, 0, 0, 1, 0))``: moves row y to the left by ``factor * (y + 0.5)``."""
    return _shift_rows(image, factor * (np.arange(image.shape[1]) + 0.5), fill, interpolation)


def shear_y(image: ImageArray, factor: float, fill: Sequence[int], interpolation: Interpolation) -> ImageArray:
    """``transform(AFFINE, (1, 0, 0, factor, 1, 0))``: moves column x up by ``factor * (x + 0.5)``."""
    return _transposed(shear_x(_transposed(image), factor, fill, interpolation))


def rotate(image: ImageArray, degrees: float, fill: Sequence[int], interpolation: Interpolation) -> ImageArray:
    """``rotate(degrees)``: counter-clockwise about the centre.

    By Pillow itself: OpenCV's cubic kernel differs from Pillow's, which numpy does not compute faster in two dimensions.
    """
    resample = Image.Resampling.BICUBIC if interpolation == "bicubic" else Image.Resampling.BILINEAR
    rotated = Image.fromarray(cv2.merge(list(image))).rotate(degrees, resample=resample, fillcolor=tuple(fill))
    return planes_of(np.asarray(rotated))


def _look_up(image: ImageArray, table: NDArray[np.generic]) -> ImageArray:
    """One table of 256 levels for all channels."""
    mapped = cv2.LUT(image.reshape(-1, image.shape[-1]), table.astype(np.uint8))
    return np.asarray(mapped, np.uint8).reshape(image.shape)


def _look_up_each(image: ImageArray, tables: Sequence[NDArray[np.generic]]) -> ImageArray:
    """A table of 256 levels for each channel; entries of levels that do not occur may exceed 255."""
    return np.stack(
        [cv2.LUT(plane, np.minimum(table, 255).astype(np.uint8)) for plane, table in zip(image, tables, strict=True)]
    )


def _blend_table(level: int, factor: float) -> NDArray[np.float32]:
    """``Image.blend`` of a constant level with each level, in Pillow's float32 arithmetic."""
    mixed = np.float32(level) + np.float32(factor) * (_LEVELS - level).astype(np.float32)
    return np.trunc(np.clip(mixed, 0, 255))


def _blend(first: ImageArray, second: ImageArray, factor: float) -> ImageArray:
    """``Image.blend``: first + factor * (second - first), cut off to 0..255."""
    shape = (-1, second.shape[-1])
    first, flat = np.ascontiguousarray(first).reshape(shape), second.reshape(shape)
    mixed = cv2.addWeighted(flat, factor, first, 1 - factor, _TRUNCATE)
    return np.asarray(mixed, dtype=np.uint8).reshape(second.shape)


def _box_kernel(deviation: float) -> NDArray[np.float32]:
    """Box of fractional width with the given standard deviation in pixels (Gwosdek et al., SSVM 2011)."""
    variance = deviation**2
    whole = math.floor((math.sqrt(12 * variance + 1) - 1) / 2)
    edge = (2 * whole + 1) * (whole * (whole + 1) - 3 * variance) / (6 * (variance - (whole + 1) ** 2))
    kernel = np.array([edge, *[1.0] * (2 * whole + 1), edge], dtype=np.float32)
    return kernel / kernel.sum()


def _transposed(image: ImageArray) -> ImageArray:
    return np.stack([cv2.transpose(plane) for plane in image])


def _shift_rows(
    image: ImageArray, offsets: NDArray[Any], fill: Sequence[int], interpolation: Interpolation
) -> ImageArray:
    """Move row y to the left by ``offsets[y]`` pixels, in Pillow's arithmetic.

    A shift or shear moves whole rows, so that one set of kernel weights serves a row: four (or two) multiplications of
    the image instead of Pillow's sixteen per pixel, with positions computed anew for each.
    """
    height, width = image.shape[1:]
    floors = np.floor(offsets)
    weights = _kernel_weights(offsets - floors, interpolation)  # taps H
    taps = len(weights)
    # Row y needs source columns floors[y] - (taps / 2 - 1) onwards; beyond its ends a row continues with its last pixel.
    margin = min(int(np.abs(offsets).max()) + 2, width) + 2
    padded = np.empty((3 * height, width + 2 * margin), dtype=np.uint8)
    rows = image.reshape(-1, width)
    padded[:, :margin], padded[:, margin:-margin], padded[:, -margin:] = rows[:, :1], rows, rows[:, -1:]
    starts = np.clip(floors.astype(np.int64) + margin - (taps // 2 - 1), 0, 2 * margin + 1 - taps)
    if (offsets == offsets[0]).all():  # a translation: one kernel for all rows
        source = padded[:, starts[0] : starts[0] + width + taps - 1]
        filtered = cv2.filter2D(source, -1, weights[:, :1].T, anchor=(0, 0), delta=_TRUNCATE)
        moved = np.ascontiguousarray(filtered[:, :width], dtype=np.uint8).reshape(image.shape)
    else:
        windows = sliding_window_view(padded, width + taps - 1, axis=1)
        moved = _weighted_sum(windows[np.arange(3 * height), np.tile(starts, 3)], weights).reshape(image.shape)
    columns = np.arange(width, dtype=np.int32)
    first = np.ceil(-offsets - 0.5).astype(np.int32)[:, None]
    outside = (columns < first) | (columns >= first + width)
    for plane, level in zip(moved, fill, strict=True):
        plane[outside] = level
    return moved


def _weighted_sum(source: ImageArray, weights: NDArray[np.float32]) -> ImageArray:
    """Sum over k of source[:, k : k + width] * weights[k], truncated: (3 H, width + taps - 1), (taps, H) to (3 H, width)."""
    taps, height = weights.shape
    width = source.shape[1] - taps + 1
    spread = [np.repeat(weight[:, None], width, axis=1) for weight in weights]  # taps x (H width)
    result = np.empty((len(source), width), dtype=np.uint8)
    for start in range(0, len(source), height):
        plane = source[start : start + height].astype(np.float32)
        total = np.zeros((height, width), dtype=np.float32)
        for tap, weight in enumerate(spread):
            cv2.accumulateProduct(plane[:, tap : tap + width], weight, total)
        cv2.convertScaleAbs(np.maximum(total, 0, out=total), dst=result[start : start + height], beta=_TRUNCATE)
    return result


def _kernel_weights(d: NDArray[np.float64], interpolation: Interpolation) -> NDArray[np.float32]:
    """Weights of the taps around a position a fraction ``d`` past a pixel: (taps, *d.shape).

    Pillow's ``transform`` uses the cubic kernel with a = -1, unlike its ``resize`` (-0.5) and OpenCV (-0.75).
    """
    if interpolation == "bilinear":
        return np.stack([1 - d, d]).astype(np.float32)
    return np.stack(
        [-d + 2 * d**2 - d**3, 1 - 2 * d**2 + d**3, d + d**2 - d**3, -(d**2) + d**3],
    ).astype(np.float32)
