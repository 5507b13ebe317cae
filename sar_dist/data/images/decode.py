"""Image bytes to RGB tensors.

The reference is what ImageNet training has always done, ``PIL.Image.open(...).convert("RGB")``: the stored pixels, alpha
dropped, the first frame of an animation, EXIF orientation NOT applied, except to TIFF, where Pillow does (timm, torchvision's ImageFolder and every
published ImageNet model leave it alone; rotating here would change the data that their figures stand for). JPEG goes
through torchvision, which gives the same pixels bit for bit (grey and CMYK too) and releases the GIL; everything else,
and any JPEG that torchvision refuses, goes through Pillow. Where simplejpeg is installed it comes first: the same pixels
again, in less time. It is asked to refuse whatever libjpeg warns of, so that torchvision has its say about such files.

One deliberate difference: Pillow's ``convert`` clips grey of more than 8 bits at 255, which turns such images white. Here
each kind is scaled by its own range, as ``depth`` says.
"""

from __future__ import annotations

import functools
import io
import warnings
import zlib

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg

from sar_dist.data.images.depth import (
    AmbiguousRange,
    check_deep_colour,
    is_deep_colour,
    needs_scaling,
    to_8_bits,
    unread_depth,
)
from sar_dist.data.layout import PILLOW_FORMATS
from sar_dist.errors import UserError, described

try:
    import simplejpeg
except ImportError:  # a machine for which it is not built
    simplejpeg = None

# Of EXIF data, transparency and sizes, all of which are looked at or left alone here, in raw lines without a file's name.
warnings.filterwarnings("ignore", module=r"PIL\.")

_PNG_START = b"\x89PNG\r\n\x1a\n"
_PNG_PICTURE = (b"IHDR", b"PLTE", b"IDAT")
_JPEG_START = b"\xff\xd8"
# Start-of-frame markers: 0xC0..0xCF without DHT (C4), JPG (C8) and DAC (CC).
_START_OF_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
# Markers that stand alone, without a length: TEM and RST0..RST7, SOI.
_STANDALONE = frozenset({0x01, *range(0xD0, 0xD9)})


# Grey and YCbCr or RGB; simplejpeg makes something else of CMYK than the others do.
_SIMPLE_COMPONENTS = (1, 3)

# What decoding takes at most: Pillow's RGBA canvases of an animation, the RGB image, the array made of it.
_BYTES_PER_PIXEL = 16


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
    frame = _frame_of_jpeg(data)
    return None if frame is None else frame[:2]


def _frame_of_jpeg(data: bytes) -> tuple[int, int, int] | None:
    """(height, width, components) of a JPEG as its header states them; None: there is no frame header."""
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
            if position + 10 > len(data):
                return None
            height = int.from_bytes(data[position + 5 : position + 7], "big")
            width = int.from_bytes(data[position + 7 : position + 9], "big")
            return height, width, data[position + 9]
        else:
            position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
    return None


def webp_size(data: bytes) -> tuple[int, int] | None:
    """(height, width) of a WebP as its header states it, from its first 30 bytes; None: not a WebP, or damaged."""
    if data[:4] != b"RIFF" or data[8:12] != b"WEBP" or len(data) < 25:
        return None
    kind, content = data[12:16], data[20:30]
    if kind == b"VP8X" and len(content) == 10:
        return 1 + int.from_bytes(content[7:10], "little"), 1 + int.from_bytes(content[4:7], "little")
    if kind == b"VP8L" and content[0] == 0x2F:
        bits = int.from_bytes(content[1:5], "little")
        return 1 + (bits >> 14 & 0x3FFF), 1 + (bits & 0x3FFF)
    if kind == b"VP8 " and content[3:6] == b"\x9d\x01\x2a" and len(content) == 10:
        width, height = (int.from_bytes(content[start : start + 2], "little") & 0x3FFF for start in (6, 8))
        return height, width
    return None


def check_png(data: bytes) -> None:
    """Raise UndecodableImage for a PNG whose pixels have another checksum than was stored; Pillow does not compare it.

    What is no PNG, or ends too soon, is left to the decoder; chunks besides those of the first picture, and whatever
    follows the end, do not count.
    """
    position = len(_PNG_START)
    while data.startswith(_PNG_START) and position + 12 <= len(data):
        end = position + 8 + int.from_bytes(data[position : position + 4], "big")
        kind = data[position + 4 : position + 8]
        stored = data[end : end + 4]
        if kind in _PNG_PICTURE and len(stored) == 4:
            found = zlib.crc32(memoryview(data)[position + 4 : end])
            if found != int.from_bytes(stored, "big"):
                raise UndecodableImage(f"damaged PNG: another checksum of {kind.decode()} at byte {position}")
        if kind == b"IEND":
            return
        position = end + 4


def decode_image(data: bytes, max_pixels: int) -> Tensor:
    """Decode an image file to RGB; see ``decode_and_listen``."""
    return decode_and_listen(data, max_pixels)[0]


def decode_and_listen(data: bytes, max_pixels: int) -> tuple[Tensor, str | None]:
    """Decode an image file to RGB, and hear what libjpeg warns of, where simplejpeg is installed.

    Args:
        data: bytes of an image file in any format that Pillow reads.
        max_pixels: images that have more pixels than this are refused from their header, before memory is spent on them.

    Returns:
        uint8 tensor (3, height, width); the warning: part of the picture may be what libjpeg filled in.

    Raises:
        UndecodableImage: truncated, damaged, too large, or not an image.
        UserError: there is no memory to decode it: the next image would fare no better.
    """
    warning = None
    frame = _frame_of_jpeg(data)
    if frame is not None:
        _check_size(frame[:2], max_pixels)
        if simplejpeg is not None and frame[2] in _SIMPLE_COMPONENTS:
            try:
                return torch.from_numpy(simplejpeg.decode_jpeg(data, "RGB", strict=True)).permute(2, 0, 1), None
            except ValueError as error:
                warning = str(error)
        try:
            return decode_jpeg(torch.frombuffer(bytearray(data), dtype=torch.uint8), mode=ImageReadMode.RGB), warning
        except RuntimeError:
            pass  # kinds of JPEG that torchvision does not know; Pillow has the last word, and says what is wrong
    return torch.from_numpy(np.array(decode_pil(data, max_pixels))).permute(2, 0, 1).contiguous(), warning


def decode_pil(data: bytes, max_pixels: int) -> Image.Image:
    """As ``decode_image``, through Pillow alone.

    Returns:
        RGB image.

    Raises:
        UndecodableImage: truncated, damaged, too large, or not an image.
        UserError: there is no memory to decode it: the next image would fare no better.
    """
    if not data:
        raise UndecodableImage("empty file")
    check_png(data)
    size = webp_size(data)
    if size is not None:  # Pillow allocates a WebP's canvas as soon as it opens the file
        _check_size(size, max_pixels)
    try:
        with Image.open(io.BytesIO(data), formats=_pillow_formats()) as image:
            _check_size((image.height, image.width), max_pixels)
            unread = unread_depth(image)
            if unread is not None:
                raise UndecodableImage(unread)
            if needs_scaling(image):
                return Image.fromarray(to_8_bits(image)).convert("RGB")
            deep = is_deep_colour(image)
            converted = image.convert("RGB")
            if deep:
                check_deep_colour(converted, data)
            return converted
    except UndecodableImage:
        raise
    except AmbiguousRange as error:
        raise UndecodableImage(str(error)) from None
    except MemoryError:
        if _is_free(max_pixels if size is None else size[0] * size[1]):
            raise UndecodableImage("damaged: it asks for more memory than its pixels take") from None
        raise UserError(
            "no memory left to decode an image; allow more memory, or use fewer data.workers or a smaller data.max_pixels"
        ) from None
    except UnidentifiedImageError as error:  # its message holds a memory address
        raise UndecodableImage("not an image") from error
    except Exception as error:  # Pillow's plugins raise nearly every type there is on damaged files
        raise UndecodableImage(described(error)) from error


def _is_free(pixels: int) -> bool:
    """Whether there is memory for an image of so many pixels, with the copies that decoding makes."""
    try:
        bytearray(pixels * _BYTES_PER_PIXEL)
    except MemoryError:
        return False
    return True


@functools.cache
def _pillow_formats() -> tuple[str, ...]:
    """Those of the formats that this build of Pillow has; naming another is a KeyError there."""
    Image.init()
    return tuple(name for name in PILLOW_FORMATS if name in Image.OPEN)


def _check_size(size: tuple[int, int], max_pixels: int) -> None:
    height, width = size
    if height * width == 0:
        raise UndecodableImage(f"empty image of {width}x{height} pixels")
    if height * width > max_pixels:
        raise UndecodableImage(f"{width}x{height} pixels exceed the limit of {max_pixels} (data.max_pixels)")
