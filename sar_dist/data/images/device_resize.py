"""Crop and antialiased resize of many images at once, on any device, with the very values that a data worker gets.

A worker resizes uint8 pixels by torch's antialiased filters (the triangle, or Keys' cubic with a = -0.5: those of Pillow)
in fixed point: weights of 16 bits, rounding after the rows and again after the columns. Here the same weights stand in
matrices of whole numbers in float64, where their products and sums are exact, so that a whole group of images of different
sizes is resized by two matrix products. The levels are those of the worker, whatever computes the products.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from sar_dist.data.images.image_operations import Interpolation

Box = tuple[int, int, int, int]  # top, left, height, width

# As in torch's fixed-point resize: weights below 2^15, and at most so many bits behind the point.
_LARGEST_WEIGHT = 1 << 15
_MOST_BITS = 22
# Groups are as large as this allows, filled up to the largest height and width among them: 8 bytes for each, in 3 colours.
_GROUP_PIXELS = 1 << 22


def crop_and_resize(images: Sequence[Tensor], boxes: Sequence[Box], side: int, interpolation: Interpolation) -> Tensor:
    """The crops, each resized to a square.

    Args:
        images: uint8 (3, H, W) of any sizes, on one device.
        boxes: what is kept of each.
        side: S, pixels.
        interpolation: bicubic or bilinear, antialiased.

    Returns:
        uint8 (len(images), 3, S, S), on the device of the images.
    """
    device = images[0].device
    result = torch.empty(len(images), 3, side, side, dtype=torch.uint8, device=device)
    for group in _groups(boxes):
        height, width = (max(boxes[number][axis] for number in group) for axis in (2, 3))
        pixels = torch.zeros(len(group), 3, height, width, dtype=torch.float64, device=device)
        for place, number in enumerate(group):
            top, left, rows, columns = boxes[number]
            pixels[place, :, :rows, :columns] = images[number][:, top : top + rows, left : left + columns]
        sizes = moved(torch.tensor([boxes[number][2:] for number in group]), device)  # n 2
        across, bits = _weights(sizes[:, 1], width, side, interpolation)
        pixels = _rounded(pixels @ across.transpose(1, 2).unsqueeze(1), bits)  # n 3 H S
        down, bits = _weights(sizes[:, 0], height, side, interpolation)
        pixels = _rounded(down.unsqueeze(1) @ pixels, bits)  # n 3 S S
        result[moved(torch.tensor(group), device)] = pixels.to(torch.uint8)
    return result


def moved(values: Tensor, device: torch.device) -> Tensor:
    """Values of the host on the device, without waiting for it."""
    source = values.pin_memory() if device.type == "cuda" else values
    return source.to(device, non_blocking=True)


def _groups(boxes: Sequence[Box]) -> Iterator[list[int]]:
    """Numbers of boxes that are resized together: neighbours in size, so that little is filled up."""
    group: list[int] = []
    height = width = 0
    for number in sorted(range(len(boxes)), key=lambda number: boxes[number][2:]):
        height, width = max(height, boxes[number][2]), max(width, boxes[number][3])
        if group and (len(group) + 1) * height * width > _GROUP_PIXELS:
            yield group
            group, (height, width) = [], boxes[number][2:]
        group.append(number)
    if group:
        yield group


def _weights(sizes: Tensor, longest: int, side: int, interpolation: Interpolation) -> tuple[Tensor, Tensor]:
    """The filter from lines of ``sizes`` pixels to lines of ``side``, in fixed point.

    Args:
        sizes: int64 (n,), at most ``longest``.

    Returns:
        whole numbers as float64 (n, side, longest), zero behind an image's own pixels, and the bits that they have behind
        the point, float64 (n,).
    """
    radius = 2.0 if interpolation == "bicubic" else 1.0
    scale = (sizes.to(torch.float64) / side).view(-1, 1, 1)
    centre = scale * (torch.arange(side, dtype=torch.float64, device=sizes.device).view(1, -1, 1) + 0.5)
    support = radius * scale.clamp(min=1.0)
    first = (centre - support + 0.5).trunc().clamp(min=0)
    last = torch.minimum((centre + support + 0.5).trunc(), sizes.view(-1, 1, 1))
    place = torch.arange(longest, dtype=torch.float64, device=sizes.device)
    distance = ((place - centre + 0.5) * (1 / scale.clamp(min=1.0))).abs()
    weights = _cubic(distance) if interpolation == "bicubic" else (1 - distance).clamp(min=0)
    weights = weights * ((place >= first) & (place < last))
    weights = weights / weights.sum(2, keepdim=True)
    # As many bits as the largest weight leaves.
    options = torch.arange(1, _MOST_BITS + 1, dtype=torch.float64, device=sizes.device)
    fits = (0.5 + weights.amax((1, 2)).unsqueeze(1) * torch.exp2(options)).trunc() < _LARGEST_WEIGHT
    bits = fits.sum(1).to(torch.float64)
    scaled = weights * torch.exp2(bits).view(-1, 1, 1)
    return (scaled + torch.sign(scaled) * 0.5).trunc(), bits


def _cubic(distance: Tensor) -> Tensor:
    """Keys' cubic kernel with a = -0.5 (R. Keys, IEEE TASSP 29(6), 1981, equation 4)."""
    near = (1.5 * distance - 2.5) * distance * distance + 1
    far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
    return torch.where(distance < 1, near, torch.where(distance < 2, far, torch.zeros_like(distance)))


def _rounded(sums: Tensor, bits: Tensor) -> Tensor:
    """Levels (n, ...) from sums in fixed point."""
    return (sums / torch.exp2(bits).view(-1, 1, 1, 1) + 0.5).floor_().clamp_(0, 255)
