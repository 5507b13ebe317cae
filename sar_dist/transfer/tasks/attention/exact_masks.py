"""Masks of one object (``mask.png``): grey, the object from 128. One reader for every task, so that a mask means the same in each."""

from __future__ import annotations

import io
import struct

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from sar_dist.data.images import UndecodableImage, check_png
from sar_dist.errors import UserError, text_of
from sar_dist.transfer import MAX_PIXELS

MASK = "mask.png"
WHITE = 128  # and above: the object
_HOW = f"save it as 8-bit grey with the object white (255; {WHITE} and above count) and all else black"


def decode_mask(data: bytes, key: str) -> NDArray[np.uint8]:
    """The grey values (H, W) of a mask, the object from ``WHITE``.

    Masks of 1 bit, of 16, and colour or palette images whose colours are all grey are what they look like.

    Raises:
        UndecodableImage: damaged, or not a PNG.
        UserError: it has other colours, or is transparent somewhere: what is the object is anybody's guess.
    """
    check_png(data)
    try:
        with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
            if image.width * image.height > MAX_PIXELS:
                raise UndecodableImage(f"mask of {image.width}x{image.height} pixels")
            return _grey(image, key)
    except UnidentifiedImageError as error:
        raise UndecodableImage("it is not a PNG") from error
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError) as error:
        # What Pillow raises for broken PNG chunks, truncated data and impossible headers.
        raise UndecodableImage(text_of(error)) from error


def is_plain_grey(data: bytes) -> bool:
    """Whether a mask holds the values that ``decode_mask`` gives."""
    with Image.open(io.BytesIO(data)) as image:
        return image.mode == "L" and "transparency" not in image.info


def check_some_white(highest: int, root: object) -> None:
    """Raise UserError if ``highest``, of the values of all masks in ``root``, is none of an object's."""
    if highest < WHITE:
        raise UserError(
            f"no {MASK} in {root} has an object: their highest value is {highest}, and an object is white, {WHITE} and above; multiply "
            f"masks of 0 and {highest or 1} by {255 // max(1, highest)}"
        )


def _grey(image: Image.Image, key: str) -> NDArray[np.uint8]:
    if image.mode.startswith("I"):  # 16 bits
        return (np.array(image).astype(np.int64) >> 8).astype(np.uint8)
    if image.mode in ("1", "L") and "transparency" not in image.info:
        return np.array(image.convert("L"))
    pixels = np.array(image.convert("RGBA"))
    if (pixels[..., 3] != 255).any():
        raise UserError(f"sample {key}: {MASK} is transparent in places, which does not say what the object is; {_HOW}")
    if (pixels[..., :1] != pixels[..., 1:3]).any():
        raise UserError(f"sample {key}: {MASK} has colours, which do not say what the object is; {_HOW}")
    return np.ascontiguousarray(pixels[..., 0])
