"""Joint transforms of an image and its labels, as mmsegmentation defines them for ADE20K, on torchvision's tv_tensors.

Geometry acts on both in one call, so they cannot come apart; labels are resized with NEAREST, images bilinearly without
antialiasing, as OpenCV does in the published pipelines. Random numbers come from torch's global generator: the data set
seeds it from (seed, position in training), so that a sample's augmentation depends on nothing else.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional

from sar_dist.transfer.tasks.segmentation.samples import VOID

SCALE_RANGE = (0.5, 2.0)
CAT_MAX_RATIO = 0.75
CROP_TRIES = 10
BRIGHTNESS_DELTA = 32 / 255
CONTRAST_RANGE = (0.5, 1.5)
SATURATION_RANGE = (0.5, 1.5)
HUE_DELTA = 18 / 180  # OpenCV counts hue in 180 steps


class TrainTransform:
    """Random resize, crop, flip and photometric distortion; padding at the right and bottom.

    Args:
        crop: side of the result, pixels.
        short_side, long_side: the frame (long, short) into which the image is fitted before its random scale.
    """

    def __init__(self, crop: int, short_side: int, long_side: int) -> None:
        self.crop = crop
        self.short_side = short_side
        self.long_side = long_side

    def __call__(self, image: Tensor, label: Tensor) -> tuple[Tensor, Tensor, tuple[int, int]]:
        """uint8 image (3, H, W) and labels (H, W) to (3, crop, crop), (crop, crop) and the size without padding."""
        picture, mask = tv_tensors.Image(image), tv_tensors.Mask(label[None])
        scale = _uniform(*SCALE_RANGE)
        size = fitted_size(picture.shape[-2:], self.short_side * scale, self.long_side * scale)
        picture, mask = _resize(picture, size), functional.resize(mask, list(size))
        top, left = self._crop_corner(mask)
        height, width = min(self.crop, size[0]), min(self.crop, size[1])
        picture, mask = (functional.crop(part, top, left, height, width) for part in (picture, mask))
        if _uniform(0, 1) < 0.5:
            picture, mask = (functional.horizontal_flip(part) for part in (picture, mask))
        picture = photometric_distortion(picture)
        padding = [0, 0, self.crop - width, self.crop - height]
        picture = functional.pad(picture, padding, fill=0)
        mask = functional.pad(mask, padding, fill=VOID)
        return picture.as_subclass(Tensor), mask.as_subclass(Tensor)[0], (height, width)

    def _crop_corner(self, mask: Tensor) -> tuple[int, int]:
        """Upper left corner of a crop in which no class has more than 75 % of the labelled pixels, in 10 tries."""
        height, width = mask.shape[-2:]
        top = left = 0
        for _ in range(CROP_TRIES):
            top = int(torch.randint(max(height - self.crop, 0) + 1, ()))
            left = int(torch.randint(max(width - self.crop, 0) + 1, ()))
            inside = mask[0, top : top + self.crop, left : left + self.crop]
            counts = torch.bincount(inside[inside != VOID].flatten().long())
            counts = counts[counts > 0]
            if len(counts) > 1 and counts.max() < CAT_MAX_RATIO * counts.sum():
                break
        return top, left


def evaluation_image(image: Tensor, short_side: int, long_side: int) -> Tensor:
    """uint8 (3, H, W) resized into the frame (long_side, short_side) with its ratio kept; labels stay as they are."""
    size = fitted_size(image.shape[-2:], short_side, long_side)
    return _resize(tv_tensors.Image(image), size).as_subclass(Tensor)


def fitted_size(size: tuple[int, int] | torch.Size, short_side: float, long_side: float) -> tuple[int, int]:
    """The largest (height, width) of the same ratio with sides within ``short_side`` and ``long_side`` (mmcv's rule)."""
    # mmcv makes integers of the scaled frame first.
    factor = min(int(long_side) / max(size), int(short_side) / min(size))
    return max(1, int(size[0] * factor + 0.5)), max(1, int(size[1] * factor + 0.5))


def photometric_distortion(image: Tensor) -> Tensor:
    """Brightness, contrast, saturation and hue, each with probability 1/2, contrast at one of two places.

    As mmsegmentation's PhotoMetricDistortion, but that saturation blends with the grey image (torchvision) instead of
    scaling HSV's S.
    """
    pixels = functional.to_dtype(image, torch.float32, scale=True)
    if _uniform(0, 1) < 0.5:
        pixels = (pixels + _uniform(-BRIGHTNESS_DELTA, BRIGHTNESS_DELTA)).clamp(0, 1)
    contrast_first = _uniform(0, 1) < 0.5
    if contrast_first:
        pixels = _random_contrast(pixels)
    if _uniform(0, 1) < 0.5:
        pixels = functional.adjust_saturation(pixels, _uniform(*SATURATION_RANGE))
    if _uniform(0, 1) < 0.5:
        pixels = functional.adjust_hue(pixels, _uniform(-HUE_DELTA, HUE_DELTA))
    if not contrast_first:
        pixels = _random_contrast(pixels)
    return functional.to_dtype(pixels, torch.uint8, scale=True)


def _random_contrast(pixels: Tensor) -> Tensor:
    """A factor on all values, which is what mmsegmentation calls contrast (torchvision calls it brightness)."""
    return functional.adjust_brightness(pixels, _uniform(*CONTRAST_RANGE)) if _uniform(0, 1) < 0.5 else pixels


def _resize(image: Tensor, size: tuple[int, int]) -> Tensor:
    return functional.resize(image, list(size), interpolation=InterpolationMode.BILINEAR, antialias=False)


def _uniform(low: float, high: float) -> float:
    return low + (high - low) * float(torch.rand(()))
