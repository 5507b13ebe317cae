"""Logits of an image of any size from a model of one input size: overlapping windows, averaged."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

MAX_RESIZED_VALUES = 1 << 26  # float32 values of resized logits at a time, 256 MiB

Windows = Callable[[Tensor], Tensor]


def window_starts(size: int, window: int, stride: int) -> list[int]:
    """First pixels of the windows along one side: every ``stride``, the last one moved back to end with the image.

    An image that is not larger than a window has one.
    """
    count = max(size - window + stride - 1, 0) // stride + 1
    return [max(0, min(number * stride, size - window)) for number in range(count)]


@torch.no_grad()
def sliding_logits(model: Windows, image: Tensor, *, window: int, stride: int, batch: int) -> Tensor:
    """Mean of the logits of all windows that see a pixel.

    An image with a side below the window (aspect over 4) is padded with 0, and the logits are cropped.

    Args:
        model: normalised (n, 3, window, window) to logits (n, C, window, window).
        image: normalised (3, h, w).
        window, stride: pixels.
        batch: windows per call of ``model``.

    Returns:
        float32 (C, h, w).
    """
    height, width = image.shape[1:]
    padded = functional.pad(image, (0, max(0, window - width), 0, max(0, window - height)))
    tops = window_starts(padded.shape[1], window, stride)
    lefts = window_starts(padded.shape[2], window, stride)
    corners = [(top, left) for top in tops for left in lefts]
    total: Tensor | None = None
    seen = torch.zeros(padded.shape[1:], device=image.device)
    for first in range(0, len(corners), batch):
        chunk = corners[first : first + batch]
        inputs = torch.stack([padded[:, top : top + window, left : left + window] for top, left in chunk])
        logits = model(inputs).float()  # n C window window
        if total is None:
            total = logits.new_zeros((logits.shape[1], *padded.shape[1:]))
        for (top, left), values in zip(chunk, logits, strict=True):
            total[:, top : top + window, left : left + window] += values
            seen[top : top + window, left : left + window] += 1
    assert total is not None
    return (total / seen)[:, :height, :width]


def resized_argmax(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Class of each pixel of the original image: logits resized bilinearly, then the largest.

    A few classes at a time: 150 classes of a photograph of 12 million pixels would be 7 GB.

    Args:
        logits: (C, h, w).
        size: (H, W) of the original image.

    Returns:
        int64 (H, W). Of equal logits the first counts, as with argmax over all.
    """
    chunk = max(1, MAX_RESIZED_VALUES // (size[0] * size[1]))
    best = torch.full(size, -torch.inf, device=logits.device)
    winner = torch.zeros(size, dtype=torch.int64, device=logits.device)
    for first in range(0, len(logits), chunk):
        part = logits[first : first + chunk]
        if part.shape[1:] != size:
            part = functional.interpolate(part[None], size=size, mode="bilinear", align_corners=False)[0]
        value, index = part.max(dim=0)
        better = value > best
        best = torch.where(better, value, best)
        winner = torch.where(better, index + first, winner)
    return winner
