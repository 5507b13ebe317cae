"""An operation of the augmentation as it was drawn for one image: its kind and strength, and what it does on the host.

Nothing that is drawn depends on pixels. So what happens to a sample is known before it is decoded, and can be done
wherever the pixels are: here by ``image_operations``, or for a whole batch by ``device_operations``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

from sar_dist.data.images import image_operations as operations
from sar_dist.data.images.image_operations import ImageArray, Interpolation


class Kind(IntEnum):
    """What is done; the comment says what the amount is. Kinds that the device does together are neighbours."""

    INVERT = 0
    POSTERIZE = 1  # bits that stay
    SOLARIZE = 2  # level from which on is inverted
    SOLARIZE_ADD = 3  # levels that are added
    BRIGHTNESS = 4  # factor, as of contrast, colour and sharpness
    CONTRAST = 5
    AUTO_CONTRAST = 6
    EQUALIZE = 7
    COLOR = 8
    SHARPNESS = 9
    SHEAR_X = 10  # pixels by which a row moves against the one above
    SHEAR_Y = 11  # of a column
    TRANSLATE_X = 12  # pixels
    TRANSLATE_Y = 13
    ROTATE = 14  # degrees, counter-clockwise
    BLUR = 15  # radius, pixels
    FLIP = 16


class DrawnOperation(NamedTuple):
    """One operation on one image."""

    kind: Kind
    amount: float = 0.0


@dataclass(frozen=True)
class Canvas:
    """How geometric operations resample, and the colour (red, green, blue) they show where the image ends."""

    interpolation: Interpolation
    fill: tuple[int, int, int]


_ALONE: dict[Kind, Callable[[ImageArray], ImageArray]] = {
    Kind.INVERT: operations.invert,
    Kind.AUTO_CONTRAST: operations.auto_contrast,
    Kind.EQUALIZE: operations.equalize,
    Kind.FLIP: operations.flip_horizontally,
}
_WHOLE: dict[Kind, Callable[[ImageArray, int], ImageArray]] = {
    Kind.POSTERIZE: operations.posterize,
    Kind.SOLARIZE: operations.solarize,
    Kind.SOLARIZE_ADD: operations.solarize_add,
}
_CONTINUOUS: dict[Kind, Callable[[ImageArray, float], ImageArray]] = {
    Kind.BRIGHTNESS: operations.brightness,
    Kind.CONTRAST: operations.contrast,
    Kind.COLOR: operations.color,
    Kind.SHARPNESS: operations.sharpness,
    Kind.BLUR: operations.gaussian_blur,
}
_GEOMETRIC: dict[Kind, Callable[[ImageArray, float, tuple[int, int, int], Interpolation], ImageArray]] = {
    Kind.SHEAR_X: operations.shear_x,
    Kind.SHEAR_Y: operations.shear_y,
    Kind.TRANSLATE_X: operations.translate_x,
    Kind.TRANSLATE_Y: operations.translate_y,
    Kind.ROTATE: operations.rotate,
}


def apply_on_host(image: ImageArray, drawn: DrawnOperation, canvas: Canvas) -> ImageArray:
    """The image (3, H, W) after the operation; the argument is left alone."""
    kind, amount = drawn
    if kind in _ALONE:
        return _ALONE[kind](image)
    if kind in _WHOLE:
        return _WHOLE[kind](image, int(amount))
    if kind in _CONTINUOUS:
        return _CONTINUOUS[kind](image, amount)
    return _GEOMETRIC[kind](image, amount, canvas.fill, canvas.interpolation)
