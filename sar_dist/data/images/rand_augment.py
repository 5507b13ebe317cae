"""What RandAugment, DeiT-III's 3-Augment and colour jitter do to a sample, drawn from the global generators.

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

from sar_dist.config import AugmentSettings, ImageSize, height_and_width
from sar_dist.data.images.drawn_operations import Canvas, DrawnOperation, Kind
from sar_dist.errors import UserError

# Magnitudes are on a scale from 0 to this.
_SCALE = 10.0
# A standard deviation of the magnitude above this means: uniform between 0 and the magnitude (timm's notation).
_UNIFORM_ABOVE = 100
_MOST_LAYERS = 100

Size = tuple[int, int]  # height and width, pixels


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
    if policy.probability > 1 or policy.magnitude_max == 0 or policy.layers > _MOST_LAYERS:
        raise UserError(f"{wrong}: p must be at most 1, mmax above 0 and n at most {_MOST_LAYERS}")
    if policy.magnitude_std > _UNIFORM_ABOVE:
        policy = replace(policy, magnitude_std=math.inf)
    return policy


def _randomly_negated(value: float) -> float:
    return -value if random.random() > 0.5 else value


@dataclass(frozen=True)
class _Alone:
    """An operation that has no strength."""

    kind: Kind

    def __call__(self, _magnitude: float, _size: Size) -> DrawnOperation:
        return DrawnOperation(self.kind)


@dataclass(frozen=True)
class _Whole:
    """A whole number that grows with the magnitude up to ``limit``, or falls from ``most`` where ``falling``."""

    kind: Kind
    most: int
    limit: float = math.inf
    falling: bool = False

    def __call__(self, magnitude: float, _size: Size) -> DrawnOperation:
        amount = min(self.limit, int(magnitude / _SCALE * self.most))
        return DrawnOperation(self.kind, self.most - amount if self.falling else amount)


@dataclass(frozen=True)
class _Enhance:
    """Colour, contrast, brightness or sharpness by a factor from 0.1 to 1.9, where 1 leaves the image as it is."""

    kind: Kind
    increasing: bool

    def __call__(self, magnitude: float, _size: Size) -> DrawnOperation:
        if self.increasing:
            factor = max(0.1, 1 + _randomly_negated(magnitude / _SCALE * 0.9))
        else:
            factor = magnitude / _SCALE * 1.8 + 0.1
        return DrawnOperation(self.kind, factor)


@dataclass(frozen=True)
class _Either:
    """A rotation, shear or translation by up to ``strength`` to either side; of a translation it is a share of the width or height."""

    kind: Kind
    strength: float

    def __call__(self, magnitude: float, size: Size) -> DrawnOperation:
        unit = {Kind.TRANSLATE_X: size[1], Kind.TRANSLATE_Y: size[0]}.get(self.kind, 1)
        return DrawnOperation(self.kind, _randomly_negated(magnitude / _SCALE * self.strength) * unit)


def _draws(increasing: bool) -> tuple[Callable[[float, Size], DrawnOperation], ...]:
    """The fifteen operations in timm's order, which decides what a drawn index means: of (magnitude in 0..10, size)."""
    return (
        _Alone(Kind.AUTO_CONTRAST),
        _Alone(Kind.EQUALIZE),
        _Alone(Kind.INVERT),
        _Either(Kind.ROTATE, 30),
        _Whole(Kind.POSTERIZE, 4, falling=increasing),
        _Whole(Kind.SOLARIZE, 256, 256, falling=increasing),
        _Whole(Kind.SOLARIZE_ADD, 110, 128),
        _Enhance(Kind.COLOR, increasing),
        _Enhance(Kind.CONTRAST, increasing),
        _Enhance(Kind.BRIGHTNESS, increasing),
        _Enhance(Kind.SHARPNESS, increasing),
        _Either(Kind.SHEAR_X, 0.3),
        _Either(Kind.SHEAR_Y, 0.3),
        _Either(Kind.TRANSLATE_X, 0.45),
        _Either(Kind.TRANSLATE_Y, 0.45),
    )


class RandAugment:
    """``layers`` operations, each drawn uniformly and applied with the policy's probability and magnitude."""

    def __init__(self, policy: RandAugmentPolicy) -> None:
        self.policy = policy
        self._draws = _draws(policy.increasing)

    def __call__(self, size: Size) -> list[DrawnOperation]:
        """What happens to one image of ``size`` pixels."""
        drawn = []
        for index in np.random.choice(len(self._draws), self.policy.layers):  # noqa: NPY002 - seeded per sample
            if self.policy.probability < 1 and random.random() > self.policy.probability:
                continue
            drawn.append(self._draws[index](self._magnitude(), size))
        return drawn

    def _magnitude(self) -> float:
        policy, magnitude = self.policy, float(self.policy.magnitude)
        if math.isinf(policy.magnitude_std):
            magnitude = random.uniform(0, magnitude)
        elif policy.magnitude_std > 0:
            magnitude = random.gauss(magnitude, policy.magnitude_std)
        return min(max(magnitude, 0.0), policy.magnitude_max)


def three_augment(_size: Size) -> list[DrawnOperation]:
    """One of solarize (from level 128), grey, and Gaussian blur (radius 0.1 to 2 pixels), with equal probability."""
    kind = random.choice(("solarize", "grey", "blur"))
    if kind == "solarize":
        return [DrawnOperation(Kind.SOLARIZE, 128)]
    if kind == "grey":
        return [DrawnOperation(Kind.COLOR, 0.0)]
    return [DrawnOperation(Kind.BLUR, random.uniform(0.1, 2.0))]


@dataclass(frozen=True)
class HorizontalFlip:
    """A flip with a probability."""

    probability: float

    def __call__(self, _size: Size) -> list[DrawnOperation]:
        return [DrawnOperation(Kind.FLIP)] if torch.rand(1).item() < self.probability else []


@dataclass(frozen=True)
class ColorJitter:
    """Brightness, contrast and saturation by factors uniform in 1 - strength .. 1 + strength, in random order."""

    strength: float

    def __call__(self, _size: Size) -> list[DrawnOperation]:
        order = torch.randperm(4)  # torchvision's fourth is the hue, which is not used here
        low, high = max(0.0, 1 - self.strength), 1 + self.strength
        factors = [float(torch.empty(1).uniform_(low, high)) for _ in range(3)]
        kinds = (Kind.BRIGHTNESS, Kind.CONTRAST, Kind.COLOR)
        return [DrawnOperation(kinds[index], factors[index]) for index in order.tolist() if index < 3]


@dataclass(frozen=True)
class OperationDraw:
    """What happens to the next sample beyond the crop: drawn anew at each call, from the global generators.

    Args:
        steps: what is drawn, in turn; each of the image's size.
        size: of the cropped image.
    """

    steps: tuple[Callable[[Size], list[DrawnOperation]], ...]
    size: Size

    def __call__(self) -> list[DrawnOperation]:
        return [drawn for step in self.steps for drawn in step(self.size)]


def build_operation_draw(augment: AugmentSettings, image_size: ImageSize) -> OperationDraw:
    """What the settings ask for beyond the crop, of images of ``image_size``.

    Raises:
        UserError: ``augment.rand_augment`` cannot be read.
    """
    steps: list[Callable[[Size], list[DrawnOperation]]] = []
    if augment.horizontal_flip > 0:
        steps.append(HorizontalFlip(augment.horizontal_flip))
    if augment.rand_augment is not None:
        steps.append(RandAugment(parse_rand_augment(augment.rand_augment)))
    if augment.three_augment:
        steps.append(three_augment)
    if augment.color_jitter:
        steps.append(ColorJitter(augment.color_jitter))
    return OperationDraw(tuple(steps), height_and_width(image_size))


def canvas_of(augment: AugmentSettings) -> Canvas:
    """How the settings' geometric operations resample and fill."""
    red, green, blue = (min(255, round(255 * mean)) for mean in augment.mean)
    return Canvas(augment.interpolation, (red, green, blue))
