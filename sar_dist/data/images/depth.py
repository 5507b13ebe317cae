"""Grey of more than 8 bits, in integers or floats, as 8 bits: each kind of file by its own range.

Pillow's ``convert`` clips such grey at 255, which turns these images white. Here

- 16 bits keep their high byte, as Pillow itself does for 16-bit RGB; 12 bits and the positive half of signed 16 bits likewise;
- 32-bit integers are taken for 16 bits, which is what Pillow makes of 16-bit files in that mode, or for 32 if a value is
  above, and in TIFF, where they are what the file holds, for 8 bits if no value is above 255;
- floats are taken for 0..1, for 0..255 if a value is above that, or for 0..65535. What goes beyond a range by less than as
  much again, as resampling makes it (1.003), belongs to that range: as the next one it would be black. Whole numbers are
  counts, and belong to the next range as soon as one is above.

Values outside the range are clipped. Floats that fit no range, such as 0..7.3 or -1..1, are refused. So is what uses less than a
sixteenth of its range, as 12 bits in files of 16 do: it would be black, and an image cannot tell whether it is dark or of another range.
It is not scaled by its own highest value, with which another image of the set would have another one for the same grey.
"""

from __future__ import annotations

import cv2
import numpy as np
from PIL import Image

# Tags of TIFF, and what they say.
_BITS, _PHOTOMETRIC, _PLANAR, _SAMPLE_FORMAT = 258, 262, 284, 339
_IN_PLANES = 2
_WHITE_IS_ZERO = 0
_UNSIGNED, _SIGNED = 1, 2

_OVERSHOOT = 2.0
# Below this share of its range a picture is black: another range is as likely. 12 bits of 16 are just below it.
_DARKEST = 1 / 16
# Floats with fractions whose mean is below this share are light as a scene has it, of which a lamp is far above the rest.
_DARKEST_MEAN = 1 / 64
_LOWEST = -0.25


class AmbiguousRange(ValueError):
    """The values fit none of the ranges in which pictures are stored."""


def unread_depth(image: Image.Image) -> str | None:
    """Why an image that Pillow opens is read as another one; None: it is not.

    Of colours in planes of their own, uncompressed, it reads every byte of 16 bits as a pixel.
    """
    planes = _tag(image, _PLANAR, 1) == _IN_PLANES and len(image.getbands()) > 1
    if planes and _tag(image, _BITS, 8) > 8 and any(tile.codec_name == "raw" for tile in getattr(image, "tile", ())):
        return "a TIFF of 16 bits with colours in planes of their own; convert it to PNG, or to colours pixel by pixel"
    return None


def needs_scaling(image: Image.Image) -> bool:
    """Whether ``to_8_bits`` is for this image: grey of more than 8 bits, or signed."""
    return image.mode.startswith(("I", "F")) or (
        image.mode == "L" and _tag(image, _SAMPLE_FORMAT, _UNSIGNED) == _SIGNED
    )


def to_8_bits(image: Image.Image) -> np.ndarray:
    """Grey values of an integer or float image, (height, width), scaled to uint8.

    Raises:
        AmbiguousRange: floats of which it is not clear what is white.
    """
    pixels = np.asarray(image)
    if pixels.dtype.kind == "f":
        return _from_floats(pixels)
    inverted = _tag(image, _PHOTOMETRIC, 1) == _WHITE_IS_ZERO
    bits = _tag(image, _BITS, 8 * pixels.dtype.itemsize) if image.format == "TIFF" else 8 * pixels.dtype.itemsize
    signed = _tag(image, _SAMPLE_FORMAT, _UNSIGNED) == _SIGNED
    if bits == 32 and image.format == "TIFF" and not signed:
        pixels = pixels.view(np.uint32)  # Pillow has no such mode, and takes the upper half for negative values
    elif bits == 8:
        pixels = pixels.view(np.int8)
    values = pixels.astype(np.int64).clip(0)
    highest = int(values.max())
    shift = _shift(highest, bits, signed=signed, tiff=image.format == "TIFF")
    if shift > 0:
        _refuse_black(highest, (256 << shift) - 1)
    scaled = values >> max(shift, 0)
    grey = scaled.clip(0, 255).astype(np.uint8) if bits > 8 else (values << 1).astype(np.uint8)
    return np.asarray(255 - grey if inverted else grey)


def is_deep_colour(image: Image.Image) -> bool:
    """Whether an image that is not loaded yet has colours, or grey with alpha, of more than 8 bits, of which Pillow keeps the high byte."""
    return _tag(image, _BITS, 8) > 8 or any(";16" in str(tile.args) for tile in getattr(image, "tile", ()))


def check_deep_colour(image: Image.Image, data: bytes) -> None:
    """Refuse high bytes of colours (RGB) that are all but 0; ``data`` is the image's file. Raises AmbiguousRange."""
    highest = int(np.asarray(image).max())
    _refuse_black(highest << 8 | 255 if highest else _highest_of_low_bytes(data), 65535)


def _highest_of_low_bytes(data: bytes) -> int:
    """The highest value of colours whose high bytes, all that Pillow keeps, are 0: 8 bits in a file of 16, or black."""
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:
        return 0
    return 0 if pixels is None else int(pixels[..., :3].max())


def _refuse_black(highest: int, white: int) -> None:
    if 0 < highest < white * _DARKEST:
        raise AmbiguousRange(
            f"no value is above {highest} of {white}, so that it would be black; multiply all images of the set by the same factor (256 "
            "if they are of 8 bits, 16 if of 12), or, where others use the whole range, save all as 8 bits"
        )


def _shift(highest: int, bits: int, *, signed: bool, tiff: bool) -> int:
    """By how many bits the values of a file go to the right; in modes of 32 bits ``highest`` says how many are used."""
    if bits < 32:
        return bits - 8 - signed
    if tiff and highest <= 255:
        return 0
    return (23 if signed or not tiff else 24) if highest > 65535 else 8


def _from_floats(pixels: np.ndarray) -> np.ndarray:
    finite = np.nan_to_num(pixels, nan=0.0, posinf=0.0, neginf=0.0)
    lowest, highest = float(finite.min()), float(finite.max())
    whole = _are_whole(finite)
    most = 1.0 if whole else _OVERSHOOT  # 2 is no overshoot of 1, but a dark grey of 0..255
    white = next((range_ for range_ in (1.0, 255.0) if highest <= range_ * most), 65535.0)
    if whole and white > 255:
        _refuse_black(int(highest), int(white))
    dark = white > 1 and (highest < white * _DARKEST or float(finite.mean()) < white * _DARKEST_MEAN)
    negative = highest <= _OVERSHOOT and -_OVERSHOOT <= lowest <= _LOWEST
    if (dark and not whole) or negative:
        raise AmbiguousRange(
            f"floats from {lowest:.6g} to {highest:.6g}, which are neither 0..1 nor 0..255 nor 0..65535; scale them to 0..1"
        )
    return np.asarray((finite * (255.0 / white)).clip(0, 255).round().astype(np.uint8))


def _are_whole(pixels: np.ndarray) -> bool:
    return bool((pixels == np.round(pixels)).all())


def _tag(image: Image.Image, number: int, default: int) -> int:
    """What a TIFF's tag says of its first sample; ``default`` where there is no such tag."""
    value = getattr(image, "tag_v2", {}).get(number, default)
    return int(value[0] if isinstance(value, tuple) else value)
