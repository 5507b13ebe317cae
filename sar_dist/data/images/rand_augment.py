"""RandAugment, DeiT-III's 3-Augment and colour jitter on uint8 arrays (3, H, W).

Everything draws the random numbers of timm's (and, for the jitter, torchvision's) implementation, from the same global
generators and in the same order: with equal seeds both apply the same operations with the same strengths, which the
tests use to compare them image by image.

RandAugment: Cubuk et al., arXiv:1909.13719, in timm's variant (magnitude noise, a probability per operation).
3-Augment: Touvron et al., "DeiT III", arXiv:2204.07118.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch

from sar_dist.config import AugmentSettings
from sar_dist.data.images import image_operations as operations
from sar_dist.data.images.image_operations import ImageArray, Interpolation
from sar_dist.errors import UserError

# Magnitudes are on a scale from 0 to this.
_SCALE = 10.0
# A standard deviation of the magnitude above this means: uniform between 0 and the magnitude (timm's notation).
_UNIFORM_ABOVE = 100


@dataclass(frozen=True)
class RandAugmentPolicy:
    """RandAugment in numbers; the defaults are those of timm's notation."""

    magnitude: int = 10
    magnitude_std: float = 0.0  # inf: uniform in 0..magnitude
    magnitude_max: float = _SCALE
    layers: int = 2
    probability: float = 0.5
    increasing: bool = False


def parse_rand_augment(notation: str) -> RandAugmentPolicy:
    """Read timm's notation, such as ``rand-m9-mstd0.5-inc1``.

    Sections after ``rand``, in any order: ``m`` magnitude, ``mstd`` its standard deviation (above 100: uniform in
    0..m), ``mmax`` its upper bound, ``n`` operations per image, ``p`` probability of each, ``inc`` 1 for operations
    whose strength grows with the magnitude.

    Raises:
        UserError: a section that is not one of these, or a value out of range.
    """
    name, *sections = notation.split("-")
    wrong = f"augment.rand_augment={notation!r} cannot be read"
    if name != "rand":
        raise UserError(f"{wrong}: it must start with 'rand', as in rand-m9-mstd0.5-inc1")
    policy = RandAugmentPolicy()
    for section in sections:
        match = re.fullmatch(r"(mstd|mmax|inc|m|n|p)(\d+(?:\.\d+)?|inf)", section)
        if match is None:
            raise UserError(f"{wrong}: {section!r} is none of m9, mstd0.5, mmax10, n2, p0.5, inc1")
        key, value = match[1], float(match[2])
        field, kind = {
            "m": ("magnitude", int),
            "mstd": ("magnitude_std", float),
            "mmax": ("magnitude_max", float),
            "n": ("layers", int),
            "p": ("probability", float),
            "inc": ("increasing", bool),
        }[key]
        if (kind is int and not value.is_integer()) or (kind is bool and value not in (0, 1)):
            raise UserError(f"{wrong}: {section!r} takes a whole number" + (" 0 or 1" if kind is bool else ""))
        policy = replace(policy, **{field: kind(value)})
    if policy.probability > 1 or policy.magnitude_max == 0:
        raise UserError(f"{wrong}: p must be at most 1 and mmax above 0")
    if policy.magnitude_std > _UNIFORM_ABOVE:
        policy = replace(policy, magnitude_std=math.inf)
    return policy


@dataclass(frozen=True)
class Canvas:
    """How geometric operations resample, and the colour (red, green, blue) they show where the image ends."""

    interpolation: Interpolation
    fill: tuple[int, int, int]


Operation = Callable[[ImageArray, float, Canvas], ImageArray]  # image, magnitude in 0..10, canvas


def _randomly_negated(value: float) -> float:
    return -value if random.random() > 0.5 else value


def _auto_contrast(image: ImageArray, _magnitude: float, _canvas: Canvas) -> ImageArray:
    return operations.auto_contrast(image)


def _equalize(image: ImageArray, _magnitude: float, _canvas: Canvas) -> ImageArray:
    return operations.equalize(image)


def _invert(image: ImageArray, _magnitude: float, _canvas: Canvas) -> ImageArray:
    return operations.invert(image)


def _rotate(image: ImageArray, magnitude: float, canvas: Canvas) -> ImageArray:
    degrees = _randomly_negated(magnitude / _SCALE * 30)
    return operations.rotate(image, degrees, canvas.fill, canvas.interpolation)


def _posterize(image: ImageArray, magnitude: float, _canvas: Canvas) -> ImageArray:
    return operations.posterize(image, int(magnitude / _SCALE * 4))


def _posterize_increasing(image: ImageArray, magnitude: float, _canvas: Canvas) -> ImageArray:
    return operations.posterize(image, 4 - int(magnitude / _SCALE * 4))


def _solarize(image: ImageArray, magnitude: float, _canvas: Canvas) -> ImageArray:
    return operations.solarize(image, min(256, int(magnitude / _SCALE * 256)))


def _solarize_increasing(image: ImageArray, magnitude: float, _canvas: Canvas) -> ImageArray:
    return operations.solarize(image, 256 - min(256, int(magnitude / _SCALE * 256)))


def _solarize_add(image: ImageArray, magnitude: float, _canvas: Canvas) -> ImageArray:
    return operations.solarize_add(image, min(128, int(magnitude / _SCALE * 110)))


@dataclass(frozen=True)
class _Enhance:
    """Colour, contrast, brightness or sharpness by a factor from 0.1 to 1.9, where 1 leaves the image as it is."""

    operation: Callable[[ImageArray, float], ImageArray]
    increasing: bool

    def __call__(self, image: ImageArray, magnitude: float, _canvas: Canvas) -> ImageArray:
        if self.increasing:
            factor = max(0.1, 1 + _randomly_negated(magnitude / _SCALE * 0.9))
        else:
            factor = magnitude / _SCALE * 1.8 + 0.1
        return self.operation(image, factor)


@dataclass(frozen=True)
class _Shift:
    """A shear by up to 0.3, or a translation by up to 0.45 of the image's side, to either side."""

    operation: Callable[[ImageArray, float, tuple[int, int, int], Interpolation], ImageArray]
    strength: float
    axis: int | None = None  # of (3, H, W): the side that the strength is a share of

    def __call__(self, image: ImageArray, magnitude: float, canvas: Canvas) -> ImageArray:
        side = 1 if self.axis is None else image.shape[self.axis]
        amount = _randomly_negated(magnitude / _SCALE * self.strength) * side
        return self.operation(image, amount, canvas.fill, canvas.interpolation)


def _operations(increasing: bool) -> tuple[Operation, ...]:
    """The fifteen operations in timm's order, which decides what a drawn index means."""
    return (
        _auto_contrast,
        _equalize,
        _invert,
        _rotate,
        _posterize_increasing if increasing else _posterize,
        _solarize_increasing if increasing else _solarize,
        _solarize_add,
        _Enhance(operations.color, increasing),
        _Enhance(operations.contrast, increasing),
        _Enhance(operations.brightness, increasing),
        _Enhance(operations.sharpness, increasing),
        _Shift(operations.shear_x, 0.3),
        _Shift(operations.shear_y, 0.3),
        _Shift(operations.translate_x, 0.45, axis=2),
        _Shift(operations.translate_y, 0.45, axis=1),
    )


class RandAugment:
    """``layers`` operations, each drawn uniformly and applied with the policy's probability and magnitude."""

    def __init__(self, policy: RandAugmentPolicy, canvas: Canvas) -> None:
        self.policy = policy
        self.canvas = canvas
        self.operations = _operations(policy.increasing)

    def __call__(self, image: ImageArray) -> ImageArray:
        chosen = np.random.choice(len(self.operations), self.policy.layers)  # noqa: NPY002 - seeded per sample
        for index in chosen:
            if self.policy.probability < 1 and random.random() > self.policy.probability:
                continue
            image = self.operations[index](image, self._magnitude(), self.canvas)
        return image

    def _magnitude(self) -> float:
        policy, magnitude = self.policy, float(self.policy.magnitude)
        if math.isinf(policy.magnitude_std):
            magnitude = random.uniform(0, magnitude)
        elif policy.magnitude_std > 0:
            magnitude = random.gauss(magnitude, policy.magnitude_std)
        return min(max(magnitude, 0.0), policy.magnitude_max)


def three_augment(image: ImageArray) -> ImageArray:
    """One of solarize (from level 128), grey, and Gaussian blur (radius 0.1 to 2 pixels), with equal probability."""
    kind = random.choice(("solarize", "grey", "blur"))
    if kind == "solarize":
        return operations.solarize(image, 128)
    if kind == "grey":
        return operations.color(image, 0.0)
    return operations.gaussian_blur(image, random.uniform(0.1, 2.0))


@dataclass(frozen=True)
class ColorJitter:
    """Brightness, contrast and saturation by factors uniform in 1 - strength .. 1 + strength, in random order."""

    strength: float

    def __call__(self, image: ImageArray) -> ImageArray:
        order = torch.randperm(4)  # torchvision's fourth is the hue, which is not used here
        low, high = max(0.0, 1 - self.strength), 1 + self.strength
        factors = [float(torch.empty(1).uniform_(low, high)) for _ in range(3)]
        kinds = (operations.brightness, operations.contrast, operations.color)
        for index in order.tolist():
            if index < 3:
                image = kinds[index](image, factors[index])
        return image


def build_image_augment(augment: AugmentSettings) -> tuple[Callable[[ImageArray], ImageArray], ...]:
    """What the settings ask for beyond crop and flip: functions to apply in turn.

    Raises:
        UserError: ``augment.rand_augment`` cannot be read.
    """
    steps: list[Callable[[ImageArray], ImageArray]] = []
    if augment.rand_augment is not None:
        red, green, blue = (min(255, round(255 * mean)) for mean in augment.mean)
        canvas = Canvas(augment.interpolation, (red, green, blue))
        steps.append(RandAugment(parse_rand_augment(augment.rand_augment), canvas))
    if augment.three_augment:
        steps.append(three_augment)
    if augment.color_jitter:
        steps.append(ColorJitter(augment.color_jitter))
    return tuple(steps)
