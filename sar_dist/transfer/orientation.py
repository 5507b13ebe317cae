"""EXIF orientation: how an image is turned so that it lies as what was drawn over it, a map of labels or a box.

Viewers and many annotation tools turn an image by its tag, decoding here leaves the stored pixels alone, and maps carry no
tag. Sizes tell which of both a map was drawn on if the turn is by a quarter and the image is not square. Otherwise only
the user knows: one who has not said is asked, as the wrong answer makes labels of other pixels without any other sign.
"""

from __future__ import annotations

import io
from typing import Literal

from PIL import Image
from pydantic import Field
from torch import Tensor

from sar_dist.errors import UserError
from sar_dist.transfer.task import TransferSettings

DrawnOn = Literal["stored", "shown"]
Size = tuple[int, int]  # height, width

UPRIGHT = 1
_TAG = 0x0112
_TURN_BACK = {6: 8, 8: 6}  # the others undo themselves
_FIRST_QUARTER = 5
_TIFF = (b"II*\0", b"MM\0*")
_MARKS = (b"Exif", b"eXIf", b"EXIF", b"rientation")  # of JPEG, PNG, WebP and XMP


class OrientationSettings(TransferSettings):
    """Settings of tasks that compare images with what was drawn over them."""

    orientation: DrawnOn | None = Field(
        None,
        description="of images with an EXIF orientation of which sizes do not tell: their maps or boxes were drawn on the stored pixels, or on the picture as viewers show it; none: such an image ends the evaluation",
    )


def exif_orientation(data: bytes) -> int:
    """The orientation that an image file states, 2 to 8; 1 if it states none or cannot be read."""
    if not data.startswith(_TIFF) and not any(mark in data for mark in _MARKS):
        return UPRIGHT  # nearly every file, and much faster than opening it
    try:
        with Image.open(io.BytesIO(data)) as image:
            found = image.getexif().get(_TAG, UPRIGHT)
    except Exception:  # noqa: BLE001 - Pillow's plugins raise nearly every type there is on damaged files
        return UPRIGHT
    return int(found) if found in range(UPRIGHT, 9) else UPRIGHT


def turned(pixels: Tensor, orientation: int) -> Tensor:
    """Stored pixels (..., H, W) as viewers show them."""
    if orientation >= _FIRST_QUARTER:
        pixels = pixels.transpose(-1, -2)
    sides = {2: [-1], 3: [-2, -1], 4: [-2], 6: [-1], 7: [-2, -1], 8: [-2]}.get(orientation, [])
    return pixels.flip(sides).contiguous() if sides else pixels.contiguous()


def turned_back(pixels: Tensor, orientation: int) -> Tensor:
    """The inverse of ``turned``."""
    return turned(pixels, _TURN_BACK.get(orientation, orientation))


def shown_size(size: Size, orientation: int) -> Size:
    """Size of an image of ``size`` that is ``turned``."""
    return (size[1], size[0]) if orientation >= _FIRST_QUARTER else size


def turn_to_map(key: str, image: bytes, size: Size, drawn: tuple[bytes, Size], drawn_on: DrawnOn | None) -> int:
    """The orientation by which a decoded image must be ``turned`` to lie as its map.

    Args:
        key: of the sample.
        image: its file.
        size: of the image as it is decoded.
        drawn: the map's file and size.
        drawn_on: what the user said.

    Raises:
        UserError: sizes do not tell, and the user has not said; or the map has an orientation of its own.
    """
    tag = exif_orientation(image)
    map_file, map_size = drawn
    map_tag = exif_orientation(map_file)
    if map_tag not in (UPRIGHT, tag):
        raise UserError(
            f"{key}: the map of labels has the EXIF orientation {map_tag}, its image {tag}; store the map without one, as it lies over its image"
        )
    if tag == UPRIGHT:
        return UPRIGHT
    to_stored, to_shown = _turns(image, tag)
    if map_tag == tag:  # both are stored the same way
        return to_stored
    if shown_size(size, to_stored) != shown_size(size, to_shown):
        return next((turn for turn in (to_stored, to_shown) if shown_size(size, turn) == map_size), UPRIGHT)
    return _as_said(key, tag, (to_stored, to_shown), drawn_on)


def turn_to_box(key: str, image: bytes, drawn_on: DrawnOn | None) -> int:
    """As ``turn_to_map`` for a box, which has no size that could tell. Raises UserError."""
    tag = exif_orientation(image)
    return UPRIGHT if tag == UPRIGHT else _as_said(key, tag, _turns(image, tag), drawn_on)


def _turns(image: bytes, tag: int) -> tuple[int, int]:
    """By what to turn a decoded image to have it as it is stored, and as it is shown."""
    # Pillow turns TIFF, and nothing else, when it decodes it.
    return (_TURN_BACK.get(tag, tag), UPRIGHT) if image.startswith(_TIFF) else (UPRIGHT, tag)


def _as_said(key: str, tag: int, turns: tuple[int, int], drawn_on: DrawnOn | None) -> int:
    if drawn_on is None:
        raise UserError(
            f"{key}: the image has the EXIF orientation {tag}, and nothing tells whether its labels were drawn on the stored pixels or "
            "on the picture as viewers show it; say orientation=stored (as drawn with Pillow or OpenCV's raw pixels) or orientation=shown "
            "(as in most annotation tools)"
        )
    return turns[0] if drawn_on == "stored" else turns[1]
