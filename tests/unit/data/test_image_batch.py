"""Batches whose images are finished a few at a time are those of finishing each on its own."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from sar_dist.data import image_batch
from sar_dist.data.image_batch import ImageBatch
from sar_dist.data.images import Canvas, CroppedImage, DrawnOperation, Kind

SIZE = (24, 32)
CANVAS = Canvas("bicubic", (1, 2, 3))


def crop(seed: int, height: int = 40, width: int = 57) -> CroppedImage:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    operations = [DrawnOperation(Kind.FLIP), DrawnOperation(Kind.SHEAR_X, 0.2)] if seed % 3 == 0 else []
    return CroppedImage(pixels, SIZE, operations, CANVAS)


@pytest.mark.parametrize("together", [1, 3, 16])
def test_images_are_those_finished_alone_in_their_order(together: int) -> None:
    images = [crop(seed) if seed % 4 else torch.full((3, *SIZE), seed, dtype=torch.uint8) for seed in range(10)]
    batch = ImageBatch(12, together)
    for image in images:
        batch.add(image)
    expected = [image.finished() if isinstance(image, CroppedImage) else image for image in images]
    assert torch.equal(batch.finished(), torch.stack(expected))


def test_few_large_crops_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """What waits is memory of every worker: an album of photographs of a camera must not take sixteen at once."""
    waiting: list[int] = []
    finish = ImageBatch._finish

    def finished(batch: ImageBatch) -> None:
        waiting.append(len(batch._waiting))
        finish(batch)

    monkeypatch.setattr(ImageBatch, "_finish", finished)
    monkeypatch.setattr(image_batch, "_WAITING_BYTES", 2 * 40 * 57 * 3)
    batch = ImageBatch(8, 4)
    for seed in range(8):
        batch.add(crop(seed))
    assert waiting == [3, 3]
    batch.finished()
    assert waiting == [3, 3, 2]


def test_an_image_of_another_size_is_no_silent_garbage() -> None:
    batch = ImageBatch(2, 1)
    batch.add(crop(1))
    with pytest.raises(AssertionError):
        batch.add(CroppedImage(crop(2).pixels, (24, 24), [], CANVAS))


@pytest.mark.parametrize("view", [slice(None), slice(3, 50)])
def test_torch_gets_pixels_that_it_resizes_as_they_are(view: slice, monkeypatch: pytest.MonkeyPatch) -> None:
    """Strides decide how; a whole image used to be turned into planes and back."""
    seen: list[torch.Tensor] = []
    resize = F.interpolate

    def recorded(batch: torch.Tensor, **options: Any) -> torch.Tensor:
        seen.append(batch)
        return resize(batch, **options)

    monkeypatch.setattr(F, "interpolate", recorded)
    whole = crop(1)
    CroppedImage(whole.pixels[:, view], SIZE, [], CANVAS).finished()
    (batch,) = seen
    height, width = batch.shape[2:]
    assert batch.stride() == (3 * height * width, 1, 3 * width, 3)
