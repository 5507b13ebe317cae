"""A part of an image, such as a training crop: what lies around it is not decoded where that saves time.

Only of JPEGs whose markers say that they decode to the end (``sound_jpeg.py``), so that a damaged file meets one verdict
whatever its crop; and exactly, since a decoder gives the same pixels for a part as for the whole.
"""

from __future__ import annotations

import contextlib

import numpy as np
from numpy.typing import NDArray

from sar_dist.data.images import turbojpeg
from sar_dist.data.images.decode import decode_image, simplejpeg
from sar_dist.data.images.sound_jpeg import NotSound, SoundJpeg, sound_jpeg

Box = tuple[int, int, int, int]  # top, left, height, width

# Where less than that can be left out, it takes longer to make sure of it than to decode it (benchmarks/decoders.py).
_FEWEST_PIXELS_AROUND = 60_000
_MOST_ROWS = 0.9


def decode_box(data: bytes, max_pixels: int, size: tuple[int, int], box: Box) -> NDArray[np.uint8] | None:
    """What ``decode_image`` gives inside a box.

    Args:
        data, max_pixels: as there.
        size: (height, width) that the image is expected to have.
        box: (top, left, height, width) of the part, inside of it.

    Returns:
        Interleaved RGB, uint8 (height, width, 3) of the box, contiguous; None: the image is not of that size.

    Raises:
        what ``decode_image`` raises, for the same files.
    """
    top, left, height, width = box
    pixels = _without_the_rest(data, size, box) if size[0] * size[1] <= max_pixels else None
    if pixels is None:
        image = decode_image(data, max_pixels)  # 3 H W
        if image.shape[1:] != size:
            return None
        pixels = image.permute(1, 2, 0).numpy()[top : top + height, left : left + width]
    return np.ascontiguousarray(pixels)


def _without_the_rest(data: bytes, size: tuple[int, int], box: Box) -> NDArray[np.uint8] | None:
    """The pixels in the box, (height, width, 3); None: the image has to be decoded whole, or is as fast whole.

    Without TurboJPEG 3, what is below the box is all that can be left out: a sixth of a photograph, on average.
    """
    top, left, height, width = box
    region = turbojpeg.is_there() and size[0] * size[1] - height * width >= _FEWEST_PIXELS_AROUND
    if not region and (simplejpeg is None or top + height > _MOST_ROWS * size[0]):
        return None
    try:
        jpeg = sound_jpeg(data)
    except NotSound:
        return None
    if (jpeg.height, jpeg.width) != size:
        return None
    if region:
        return turbojpeg.decode_region(jpeg, box)
    rows = _first_rows(jpeg, top + height)
    return None if rows is None else rows[top : top + height, left : left + width]


def _first_rows(jpeg: SoundJpeg, rows: int) -> NDArray[np.uint8] | None:
    """So many rows of the image and a few more, (height, width, 3); None: they could not be decoded alone."""
    shorter, height = jpeg.first_rows(rows)
    with contextlib.suppress(ValueError):
        # Of a sound JPEG libjpeg does no more than warn; here it always does, of the rest of the file.
        pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(shorter, "RGB", strict=False)
        if pixels.shape[:2] == (height, jpeg.width):
            return pixels
    return None
