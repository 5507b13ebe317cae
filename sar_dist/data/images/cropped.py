"""A training image between decoding and its last steps: what its crop keeps of it, and what is still to be done."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from sar_dist.data.images.drawn_operations import Canvas, DrawnOperation, apply_on_host
from sar_dist.data.images.image_operations import ImageArray, planes_of


@dataclass(frozen=True)
class CroppedImage:
    """Decoded and cropped; resizing and the operations that were drawn are left for later.

    Attributes:
        pixels: of the crop, interleaved (height, width, 3).
        size: (H, W) to which it is resized.
        operations: on the resized crop, in turn.
        canvas: of the resize and of the operations.
    """

    pixels: NDArray[np.uint8]
    size: tuple[int, int]
    operations: list[DrawnOperation]
    canvas: Canvas

    def finished(self) -> Tensor:
        """The image, uint8 (3, H, W)."""
        planes = np.empty((3, *self.size), np.uint8)
        self.finish_into(planes)
        return torch.from_numpy(planes)

    def finish_into(self, planes: ImageArray) -> None:
        """Write the image into ``planes`` (3, H, W)."""
        assert planes.shape == (3, *self.size)  # OpenCV would quietly write elsewhere
        pixels = resized(self.pixels, self.size, self.canvas.interpolation)
        if not self.operations:
            cv2.split(pixels, list(planes))
            return
        image = planes_of(pixels)
        for operation in self.operations:
            image = apply_on_host(image, operation, self.canvas)
        planes[:] = image


def resized(pixels: NDArray[np.uint8], size: tuple[int, int], interpolation: str) -> NDArray[np.uint8]:
    """Antialiased resize of interleaved pixels (h, w, 3) to (*size, 3)."""
    image = torch.from_numpy(np.ascontiguousarray(pixels))
    # Not permuted first: torch resizes interleaved pixels as they are only where the batch's stride, too, is that of a whole
    # image; otherwise it turns them into planes and back, which takes half as long again.
    batch = image.unsqueeze(0).permute(0, 3, 1, 2)
    return F.interpolate(batch, size=size, mode=interpolation, antialias=True)[0].permute(1, 2, 0).numpy()
