"""Image bytes to fixed-size uint8 tensors, for training and for validation.

Two backends draw the SAME random numbers in the same order (those of timm's ``create_transform``), so that with equal
seeds they make the same crop, flip and operations and differ in arithmetic only:

- ``pil``: timm's own transforms on PIL images, the reference;
- ``fast``: torchvision decoding, antialiased resizing on uint8 tensors, operations of ``image_operations``.

Random numbers come from the global generators ``random``, ``numpy.random`` and ``torch.default_generator`` alone,
because that is what timm draws from; whoever calls a transform seeds the three per sample. Normalisation, erasing and
mixing follow on the device (``device_transforms``).
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from timm.data.transforms import RandomResizedCropAndInterpolation, ResizeKeepRatio
from timm.data.transforms_factory import transforms_imagenet_eval, transforms_imagenet_train
from torch import Tensor

from sar_dist.config import AugmentSettings, ImageSize, height_and_width
from sar_dist.data.images.cropped import CroppedImage, resized
from sar_dist.data.images.decode import decode_image, decode_pil, jpeg_size
from sar_dist.data.images.drawn_operations import Canvas, DrawnOperation
from sar_dist.data.images.image_operations import planes_of
from sar_dist.data.images.partial_decode import decode_box
from sar_dist.data.images.rand_augment import OperationDraw, build_operation_draw, canvas_of

Transform = Callable[[bytes], Tensor]

# Resizing the short side of a 1 x 1,000,000 image to 256 would ask for 65 Gpixel: only the middle of such an image is kept.
MAX_ASPECT_RATIO = 32


def build_train_transform(augment: AugmentSettings, image_size: ImageSize, max_pixels: int) -> Transform:
    """Training transform: random resized crop; then flip, RandAugment or 3-Augment, colour jitter.

    With ``augment.where=device`` it ends with the crop. What ``build_operation_draw`` gives draws the rest right
    after it, the same numbers in the same order.

    Args:
        augment: what to do, and with which backend.
        image_size: of the result.
        max_pixels: larger images are refused before decoding.

    Returns:
        picklable function from the bytes of an image file to a uint8 tensor (3, H, W); it raises ``UndecodableImage``.

    Raises:
        UserError: ``augment.rand_augment`` cannot be read.
    """
    draw = build_operation_draw(augment, image_size)
    if augment.backend == "pil":
        return PilTransform(_timm_train_transform(augment, image_size), max_pixels)
    here = None if augment.where == "device" else draw
    return FastTrainTransform(augment, image_size, max_pixels, here, canvas_of(augment))


def build_eval_transform(augment: AugmentSettings, image_size: ImageSize, max_pixels: int) -> Transform:
    """Validation transform of timm: a resize to ``floor(image_size / crop_fraction)``, then the centre crop.

    The short side is resized to that with ``crop_mode=center``, both sides with ``squash``, and with ``border`` the long
    one, after which the short one is padded with the mean colour. Where height and width differ, ``center`` resizes to the
    smallest image of the same shape that covers both, ``border`` to the largest that fits into them.

    Arguments and result as for ``build_train_transform``.
    """
    if augment.backend == "pil":
        return PilTransform(_timm_eval_transform(augment, image_size), max_pixels, augment.crop_mode == "center")
    return FastEvalTransform(augment, image_size, max_pixels)


def random_crop_box(
    height: int, width: int, scale: tuple[float, float], ratio: tuple[float, float]
) -> tuple[int, int, int, int]:
    """Draw the box of a random resized crop (Szegedy et al. 2015), with the draws of timm in timm's order.

    Args:
        height, width: size of the image, pixels.
        scale: range of the box's share of the image area, drawn uniformly.
        ratio: range of its width / height, drawn uniformly in the logarithm.

    Returns:
        (top, left, height, width); at least one pixel, also where timm's would round to none.
    """
    log_low, log_high = math.log(ratio[0]), math.log(ratio[1])
    for _ in range(10):
        area = random.uniform(*scale) * height * width
        aspect = math.exp(random.uniform(log_low, log_high))
        box_width = max(1, round(math.sqrt(area * aspect)))
        box_height = max(1, round(math.sqrt(area / aspect)))
        if box_width <= width and box_height <= height:
            top = random.randint(0, height - box_height)
            left = random.randint(0, width - box_width)
            return top, left, box_height, box_width
    # No luck, so the image is long: the largest centred box of an allowed aspect ratio.
    box_height = height if width / height >= ratio[0] else max(1, round(width / ratio[0]))
    box_width = width if width / height <= ratio[1] else max(1, round(height * ratio[1]))
    return (height - box_height) // 2, (width - box_width) // 2, box_height, box_width


@dataclass(frozen=True)
class DrawnImage:
    """What is done to one training image.

    Attributes:
        size: (height, width) of its pixels.
        box: (top, left, height, width) of what is kept of them.
        operations: on the resized crop, in turn.
    """

    size: tuple[int, int]
    box: tuple[int, int, int, int]
    operations: list[DrawnOperation]


@dataclass(frozen=True)
class FastTrainTransform:
    """``backend=fast`` for training; see ``build_train_transform``.

    ``drawn_ahead`` and then ``decoded`` give what calling it gives, with the same draws.
    """

    augment: AugmentSettings
    image_size: ImageSize
    max_pixels: int
    draw: OperationDraw | None  # None: what comes after the crop is done elsewhere
    canvas: Canvas

    def __call__(self, data: bytes) -> Tensor:
        image = decode_image(data, self.max_pixels)  # 3 H W
        return self._cropped(image, self._drawn(image.shape[1], image.shape[2])).finished()

    def drawn_ahead(self, data: bytes) -> DrawnImage | None:
        """What will be done to the image, drawn from the size in its header; None: it has none, so that only calling will do."""
        size = jpeg_size(data)
        return None if size is None or 0 in size else self._drawn(*size)

    def decoded(self, data: bytes, drawn: DrawnImage) -> CroppedImage | None:
        """The image to which that will have been done once it is finished; None: it is not of the size that its header says.

        Raises UndecodableImage.
        """
        crop = decode_box(data, self.max_pixels, drawn.size, drawn.box)
        return None if crop is None else self._unfinished(crop, drawn)

    def _drawn(self, height: int, width: int) -> DrawnImage:
        box = random_crop_box(height, width, self.augment.scale, self.augment.ratio)
        return DrawnImage((height, width), box, [] if self.draw is None else self.draw())

    def _cropped(self, image: Tensor, drawn: DrawnImage) -> CroppedImage:
        top, left, height, width = drawn.box
        crop = np.ascontiguousarray(_interleaved(image)[top : top + height, left : left + width])
        return self._unfinished(crop, drawn)

    def _unfinished(self, crop: NDArray[np.uint8], drawn: DrawnImage) -> CroppedImage:
        return CroppedImage(crop, height_and_width(self.image_size), drawn.operations, self.canvas)


@dataclass(frozen=True)
class FastEvalTransform:
    """``backend=fast`` for validation; see ``build_eval_transform``."""

    augment: AugmentSettings
    image_size: ImageSize
    max_pixels: int

    def __call__(self, data: bytes) -> Tensor:
        image = _interleaved(decode_image(data, self.max_pixels))
        rows, columns = height_and_width(self.image_size)
        if self.augment.crop_mode == "center":
            top, left, height, width = _middle_box(*image.shape[:2])
            image = image[top : top + height, left : left + width]
        pixels = resized(image, self._resized_size(*image.shape[:2]), self.augment.interpolation)
        if self.augment.crop_mode == "border":
            pixels = _padded(pixels, (rows, columns), self.augment.mean)
        top, left = round((pixels.shape[0] - rows) / 2), round((pixels.shape[1] - columns) / 2)
        return torch.from_numpy(planes_of(pixels[top : top + rows, left : left + columns]))

    def _resized_size(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) after resizing an image of ``height`` x ``width`` pixels, rounded as in timm."""
        target = _before_crop(self.augment, self.image_size)
        if self.augment.crop_mode == "squash":
            return target
        if self.augment.crop_mode == "border":
            return _within(height, width, target)
        if target[0] != target[1]:
            ratio = min(height / target[0], width / target[1])
            return max(target[0], round(height / ratio)), max(target[1], round(width / ratio))
        side = target[0]
        long = int(side * max(height, width) / min(height, width))
        return (side, long) if height <= width else (long, side)


@dataclass(frozen=True)
class PilTransform:
    """``backend=pil``: a timm pipeline behind Pillow's decoder; ``middle``: of an absurdly long image its middle only."""

    pipeline: Callable[[Image.Image], Tensor]
    max_pixels: int
    middle: bool = True

    def __call__(self, data: bytes) -> Tensor:
        image = decode_pil(data, self.max_pixels)
        top, left, height, width = _middle_box(image.height, image.width)
        if self.middle and (height, width) != (image.height, image.width):
            image = image.crop((left, top, left + width, top + height))
        return self.pipeline(image).contiguous()


class _RandomResizedCrop(RandomResizedCropAndInterpolation):
    """timm's, with a box of at least one pixel."""

    @staticmethod
    def get_params(
        image: Image.Image, scale: tuple[float, float], ratio: tuple[float, float]
    ) -> tuple[int, int, int, int]:
        return random_crop_box(image.height, image.width, scale, ratio)


class _ResizeKeepRatio(ResizeKeepRatio):
    """timm's, with sides of at least one pixel; without random scales."""

    @staticmethod
    def get_params(image: Image.Image, target_size: tuple[int, int], *_random: object) -> tuple[int, int]:
        return _within(image.height, image.width, target_size)


def _within(height: int, width: int, target: tuple[int, int]) -> tuple[int, int]:
    """Size of the largest image of the same shape inside ``target`` (height, width), rounded as in timm."""
    ratio = max(height / target[0], width / target[1])
    return max(1, round(height / ratio)), max(1, round(width / ratio))


def _before_crop(augment: AugmentSettings, image_size: ImageSize) -> tuple[int, int]:
    """Height and width of which the centre crop takes ``crop_fraction``, rounded as in timm."""
    height, width = height_and_width(image_size)
    return math.floor(height / augment.crop_fraction), math.floor(width / augment.crop_fraction)


def _timm_eval_transform(augment: AugmentSettings, image_size: ImageSize) -> Callable[[Image.Image], Tensor]:
    pipeline = transforms_imagenet_eval(
        image_size,
        crop_pct=augment.crop_fraction,
        crop_mode=augment.crop_mode,
        interpolation=augment.interpolation,
        mean=augment.mean,
        normalize=False,
    )
    if augment.crop_mode == "border":
        size = _before_crop(augment, image_size)
        pipeline.transforms[0] = _ResizeKeepRatio(size, longest=1.0, interpolation=augment.interpolation)
    return pipeline


def _timm_train_transform(augment: AugmentSettings, image_size: ImageSize) -> Callable[[Image.Image], Tensor]:
    pipeline = transforms_imagenet_train(
        image_size,
        scale=augment.scale,
        ratio=augment.ratio,
        hflip=augment.horizontal_flip,
        color_jitter=augment.color_jitter or None,  # type: ignore[arg-type]  # timm's annotation leaves None out
        force_color_jitter=True,
        auto_augment="3a" if augment.three_augment else augment.rand_augment,
        interpolation=augment.interpolation,
        mean=augment.mean,
        std=augment.std,
        normalize=False,
    )
    make_posterize_safe(pipeline.transforms)
    pipeline.transforms[0] = _RandomResizedCrop(
        image_size, scale=augment.scale, ratio=augment.ratio, interpolation=augment.interpolation
    )
    return pipeline


def make_posterize_safe(transforms: list[Any]) -> None:
    """Keep at least one bit: timm 1.0 asks for none in 0.15 % of images, at which Pillow 13 raises ValueError."""
    for operation in (operation for transform in transforms for operation in getattr(transform, "ops", ())):
        if operation.name.startswith("Posterize"):
            operation.aug_fn = _posterize


def _posterize(image: Image.Image, bits: int, **_options: object) -> Image.Image:
    return image if bits >= 8 else ImageOps.posterize(image, max(bits, 1))


def _middle_box(height: int, width: int) -> tuple[int, int, int, int]:
    """(top, left, height, width) of the whole image, or of its middle where it is absurdly long."""
    box_height, box_width = min(height, MAX_ASPECT_RATIO * width), min(width, MAX_ASPECT_RATIO * height)
    return (height - box_height) // 2, (width - box_width) // 2, box_height, box_width


def _interleaved(image: Tensor) -> NDArray[np.uint8]:
    """An image (3, H, W) as decoders give it, seen as pixels (H, W, 3)."""
    return image.permute(1, 2, 0).numpy()


def _padded(pixels: NDArray[np.uint8], size: tuple[int, int], mean: tuple[float, float, float]) -> NDArray[np.uint8]:
    """Pixels (H, W, 3), padded evenly with the colour ``mean`` (of 0..1) to at least ``size``, as in timm."""
    missing = [max(0, wanted - side) for wanted, side in zip(size, pixels.shape[:2], strict=True)]
    if not any(missing):
        return pixels
    padded = np.empty((pixels.shape[0] + missing[0], pixels.shape[1] + missing[1], 3), np.uint8)
    padded[:] = np.clip(np.round(255 * np.array(mean)), 0, 255)
    top, left = missing[0] // 2, missing[1] // 2
    padded[top : top + pixels.shape[0], left : left + pixels.shape[1]] = pixels
    return padded
