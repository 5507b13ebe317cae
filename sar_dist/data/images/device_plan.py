"""What happens to the images of a batch, drawn for each of them, ordered for a device that does it to many at once.

The order is made on the host, beside the decoding. It travels with the batch: the sizes of the groups as numbers of the
host, so that no device is ever asked how many images an operation has; which images they are, and how strongly, as one
tensor of bytes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sar_dist.config import ImageSize, height_and_width
from sar_dist.data.images.drawn_operations import Canvas, DrawnOperation, Kind, apply_on_host

# Numbers of a drawn operation on the device: as many as the geometric ones take.
AMOUNTS = 6
# Groups are filled up to a multiple of this by repeating their last image: pieces of the tensor of bytes then begin where
# a device reads 16 bytes at once, and no group has one image, for which a compiler would make code of its own.
GROUP_MULTIPLE = 2

_LEVELS = np.broadcast_to(np.arange(256, dtype=np.uint8), (3, 1, 256))
_FIXED_POINT = 1 << 24


class Family(IntEnum):
    """Operations that the device does as one; a layer's groups are in this order."""

    TABLE = 0  # a table of levels that is known beforehand
    CONTRAST = 1  # as the next two: a table that depends on the image
    AUTO_CONTRAST = 2
    EQUALIZE = 3
    COLOR = 4
    SHARPNESS = 5
    AFFINE = 6
    BLUR = 7


_FAMILIES = {
    **dict.fromkeys((Kind.INVERT, Kind.POSTERIZE, Kind.SOLARIZE, Kind.SOLARIZE_ADD, Kind.BRIGHTNESS), Family.TABLE),
    **dict.fromkeys((Kind.SHEAR_X, Kind.SHEAR_Y, Kind.TRANSLATE_X, Kind.TRANSLATE_Y, Kind.ROTATE), Family.AFFINE),
    **{kind: Family[kind.name] for kind in Kind if kind.name in Family.__members__},
}


@dataclass(frozen=True)
class Group:
    """Images of one family: entries ``start`` to ``stop`` of the plan, the first of which has table ``table``."""

    family: Family
    start: int
    stop: int
    table: int = 0


@dataclass(frozen=True)
class DevicePlan:
    """The host's part: what the bytes that travel with the batch mean.

    Attributes:
        images: b, of the batch.
        entries: of all groups, and a few before the first that belong to none.
        tables: of all groups whose family is TABLE.
        layers: groups of operations that do not wait for each other; a layer follows the one before.
    """

    images: int
    entries: int
    tables: int
    layers: tuple[tuple[Group, ...], ...]

    def unpack(self, packed: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The parts of the bytes, as views of them, on their device.

        Returns:
            image of each entry, int64 (entries,); its amounts, float64 (entries, AMOUNTS); tables, uint8 (tables, 256);
            whether an image is flipped first, uint8 (b,).
        """
        sizes = [8 * self.entries, 8 * AMOUNTS * self.entries, 256 * self.tables, self.images]
        index, amounts, tables, flips = packed.split(sizes)
        return index.view(torch.int64), amounts.view(torch.float64).view(-1, AMOUNTS), tables.view(-1, 256), flips


def make_plan(drawn: Sequence[Sequence[DrawnOperation]], size: ImageSize, canvas: Canvas) -> tuple[DevicePlan, Tensor]:
    """Order what was drawn for each image of a batch.

    Args:
        drawn: of each image, in turn; a flip can only be the first.
        size: of the images.
        canvas: of the geometric operations.

    Returns:
        the plan, and the tensor of bytes that it explains.
    """
    flips = [bool(operations) and operations[0].kind is Kind.FLIP for operations in drawn]
    rest = [operations[flip:] for operations, flip in zip(drawn, flips, strict=True)]
    # The first entries belong to no group: a piece that begins at 0 is another case for a compiler than all others.
    index = [0] * GROUP_MULTIPLE
    amounts: list[Sequence[float]] = [()] * GROUP_MULTIPLE
    tables: list[NDArray[np.uint8]] = []
    layers = []
    for depth in range(max(map(len, rest), default=0)):
        groups = []
        for family in Family:
            found = [
                (number, operations[depth])
                for number, operations in enumerate(rest)
                if len(operations) > depth and _FAMILIES[operations[depth].kind] is family
            ]
            if not found:
                continue
            found += found[-1:] * (-len(found) % GROUP_MULTIPLE)
            groups.append(Group(family, len(index), len(index) + len(found), len(tables)))
            index += [number for number, _ in found]
            amounts += [_amounts(operation, size) for _, operation in found]
            if family is Family.TABLE:
                tables += [apply_on_host(_LEVELS, operation, canvas)[0, 0] for _, operation in found]
        layers.append(tuple(groups))
    parts = (
        np.array(index, np.int64),
        np.array([(*numbers, *[0.0] * (AMOUNTS - len(numbers))) for numbers in amounts], np.float64),
        np.array(tables, np.uint8),
        np.array(flips, np.uint8),
    )
    packed = np.concatenate([part.reshape(-1).view(np.uint8) for part in parts])
    return DevicePlan(len(drawn), len(index), len(tables), tuple(layers)), torch.from_numpy(packed)


def _amounts(operation: DrawnOperation, size: ImageSize) -> Sequence[float]:
    """The numbers with which the device does an operation; at most AMOUNTS."""
    kind, amount = operation
    if kind is Kind.SHEAR_X:
        return 1.0, amount, 0.0, 0.0, 1.0, 0.0
    if kind is Kind.SHEAR_Y:
        return 1.0, 0.0, 0.0, amount, 1.0, 0.0
    if kind is Kind.TRANSLATE_X:
        return 1.0, 0.0, amount, 0.0, 1.0, 0.0
    if kind is Kind.TRANSLATE_Y:
        return 1.0, 0.0, 0.0, 0.0, 1.0, amount
    if kind is Kind.ROTATE:
        height, width = height_and_width(size)
        return _rotation(amount, width / 2, height / 2)
    if kind is Kind.BLUR:
        return _box_weights(amount)
    return (float(np.float32(amount)),)


def _rotation(degrees: float, x: float, y: float) -> Sequence[float]:
    """About (x, y): from a pixel of the result to a place in the image, (a, b, c, d, e, f) for x' = a x + b y + c, y' = d x + e y + f.

    Cosine and sine are rounded to 15 digits, as by Pillow.
    """
    angle = -math.radians(degrees % 360)
    cosine, sine = round(math.cos(angle), 15), round(math.sin(angle), 15)
    along, down = cosine * -x + sine * -y, -sine * -x + cosine * -y
    return cosine, sine, along + x, -sine, cosine, down + y


def _box_weights(radius: float) -> Sequence[float]:
    """Weights of a box blur's taps, in 1 / 2^24: of the middle, of its neighbours, of theirs.

    Three such boxes in turn have the variance of a Gaussian of the given radius (Gwosdek et al., "Theoretical foundations
    of Gaussian convolution by extended box filtering", SSVM 2011), in the fixed-point and float32 numbers of Pillow.
    """
    one = np.float32(1)
    variance = np.float32(radius) * np.float32(radius) / np.float32(3)
    whole = np.float32(math.floor((math.sqrt(12 * float(variance) + 1) - 1) / 2))
    edge = (2 * whole + one) * (whole * (whole + one) - 3 * variance) / (6 * (variance - (whole + one) * (whole + one)))
    width = np.float32(whole + edge)
    if whole > 1:
        raise ValueError(f"a blur of radius {radius} reaches further than the two pixels that are provided for")
    inner = int(np.float32(_FIXED_POINT) / (width * 2 + one))
    outer = (_FIXED_POINT - (2 * int(whole) + 1) * inner) // 2
    return (inner, inner, outer) if whole == 1 else (inner, outer, 0)
