"""A batch of images while it is made: a few crops are decoded, then resized one right after the other, into the batch itself."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from sar_dist.data.batch_memory import empty_batch
from sar_dist.data.images import CroppedImage

# Crops that wait to be resized: as many as are drawn for together, and no more than a core's share of the caches holds.
_WAITING_BYTES = 8 << 20


class ImageBatch:
    """Images of one size, uint8 (b, 3, H, W), in a worker directly in the memory from which the parent takes them.

    Resizing takes longer right after an image was decoded, which leaves little else in a core's caches, so it is put off
    until several have been.

    Args:
        images: b, how many there will be at most.
        together: crops that are resized together.
        room: as of ``empty_batch``.
    """

    def __init__(self, images: int, together: int, room: int = 0) -> None:
        self._images = images
        self._together = together
        self._room = room
        self._batch: Tensor | None = None
        self._waiting: list[CroppedImage | Tensor] = []
        self._bytes = 0
        self._count = 0

    def add(self, image: CroppedImage | Tensor) -> None:
        """The next image, finished, uint8 (3, H, W), or not."""
        self._waiting.append(image)
        self._bytes += image.pixels.nbytes if isinstance(image, CroppedImage) else 0
        if len(self._waiting) == self._together or self._bytes > _WAITING_BYTES:
            self._finish()

    def finished(self) -> Tensor:
        """All images, uint8 (b, 3, H, W), once they have been added."""
        self._finish()
        assert self._batch is not None
        return self._batch[: self._count]

    def _finish(self) -> None:
        if self._batch is None:
            first = self._waiting[0]
            shape = (3, *first.size) if isinstance(first, CroppedImage) else first.shape
            self._batch = empty_batch((self._images, *shape), self._room)
        begin = self._count
        self._count += len(self._waiting)
        for planes, image in zip(self._batch[begin : self._count].numpy(), self._waiting, strict=True):
            if isinstance(image, CroppedImage):
                image.finish_into(planes)
            else:
                np.copyto(planes, image.numpy())
        self._waiting.clear()
        self._bytes = 0
