"""Image bytes to RGB tensors.

The reference is what ImageNet training has always done, ``PIL.Image.open(...).convert("RGB")``: the stored pixels, alpha
dropped, the first frame of an animation, EXIF orientation NOT applied (timm, torchvision's ImageFolder and every
published ImageNet model leave it alone; rotating here would change the data that their figures stand for). JPEG goes
through torchvision, which gives the same pixels bit for bit (grey and CMYK too) and releases the GIL; everything else,
and any JPEG that torchvision refuses, goes through Pillow.

One deliberate difference: Pillow's ``convert`` clips 16-bit grey at 255, which turns such images white. Here they keep
their high byte, as Pillow itself does for 16-bit RGB.
"""

from __future__ import annotations

import functools
import io

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg

_JPEG_START = b"\xff\xd8"
# Formats that Pillow may try. Not all that it knows: for EPS it would run Ghostscript on the bytes.
_FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "AVIF", "BMP", "TIFF", "PPM", "JPEG2000")
# Start-of-frame markers: 0xC0..0xCF without DHT (C4), JPG (C8) and DAC (CC).
_START_OF_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
# Markers that stand alone, without a length: TEM and RST0..RST7, SOI.
_STANDALONE = frozenset({0x01, *range(0xD0, 0xD9)})


class UndecodableImage(Exception):
    """The bytes are no image that can be used; ``reason`` says why in a few words."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def jpeg_size(data: bytes) -> tuple[int, int] | None:
    """Size of a JPEG as its header states it, without decoding.

    Args:
        data: a JPEG file, or its beginning.

    Returns:
        (height, width) in pixels, or None when there is no frame header (not a JPEG, or damaged).
    """
    if not data.startswith(_JPEG_START):
        return None
    position = 2
    while position + 4 <= len(data):
        if data[position] != 0xFF:
            return None
        marker = data[position + 1]
        if marker == 0xFF:  # fill byte
            position += 1
        elif marker in _STANDALONE:
            position += 2
        elif marker in _START_OF_FRAME:
            if position + 9 > len(data):
                return None
            height = int.from_bytes(data[position + 5 : position + 7], "big")
            width = int.from_bytes(data[position + 7 : position + 9], "big")
            return height, width
        else:
            position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
    return None


def decode_image(data: bytes, max_pixels: int) -> Tensor:
    """Decode an image file to RGB.

    Args:
        data: bytes of an image file in any format that Pillow reads.
        max_pixels: images that have more pixels than this are refused from their header, before memory is spent on them.

    Returns:
        uint8 tensor (3, height, width).

    Raises:
        UndecodableImage: truncated, damaged, too large, or not an image.
    """
    size = jpeg_size(data)
    if size is not None:
        _check_size(size, max_pixels)
        try:
            return decode_jpeg(torch.frombuffer(bytearray(data), dtype=torch.uint8), mode=ImageReadMode.RGB)
        except RuntimeError:
            pass  # kinds of JPEG that torchvision does not know; Pillow has the last word, and says what is wrong
    return torch.from_numpy(np.array(decode_pil(data, max_pixels))).permute(2, 0, 1).contiguous()


def decode_pil(data: bytes, max_pixels: int) -> Image.Image:
    """As ``decode_image``, through Pillow alone.

    Returns:
        RGB image.

    Raises:
        UndecodableImage: truncated, damaged, too large, or not an image.
    """
    if not data:
        raise UndecodableImage("empty file")
    try:
        with Image.open(io.BytesIO(data), formats=_pillow_formats()) as image:
            _check_size((image.height, image.width), max_pixels)
            if image.mode.startswith("I;16"):
                high_byte = (np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8)
                return Image.fromarray(high_byte).convert("RGB")
            return image.convert("RGB")
    except UndecodableImage:
        raise
    except UnidentifiedImageError as error:  # its message holds a memory address
        raise UndecodableImage("not an image") from error
    except Exception as error:  # Pillow's plugins raise nearly every type there is on damaged files
        raise UndecodableImage(f"{type(error).__name__}: {error}") from error


@functools.cache
def _pillow_formats() -> tuple[str, ...]:
    """Those of the formats that this build of Pillow has; naming another is a KeyError there."""
    Image.init()
    return tuple(name for name in _FORMATS if name in Image.OPEN)


def _check_size(size: tuple[int, int], max_pixels: int) -> None:
    height, width = size
    if height * width == 0:
        raise UndecodableImage(f"empty image of {width}x{height} pixels")
    if height * width > max_pixels:
        raise UndecodableImage(f"{width}x{height} pixels exceed the limit of {max_pixels} (data.max_pixels)")
