"""Generated demo data: scenes with one labelled object, its class and its exact mask.

The class of an image is the kind of its object: a shape in a typical hue, as a lemon has. Hues of neighbouring classes
overlap, so that colour alone does not tell them apart; texture, size, rotation, stretch and place are random. Around the
object: a textured background with a gradient of light, blobs and strokes that are of no class, noise and JPEG. So the
task is learnable by a small model in minutes, neither trivial nor hopeless, and the mask says where a model should look.
Sample i is a pure function of (seed, split, i): any part of a set can be made anywhere.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterator
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sar_dist.errors import UserError
from sar_dist.keys import seed_of

FloatArray = NDArray[np.float32]

# Scenes are drawn this many times larger and averaged down, for smooth edges.
_OVERSAMPLING = 2

# Mean colours of the object and of what it covers differ at least this much (RGB in 0..1), so that it can be seen.
_LEAST_CONTRAST = 0.25

# Standard deviation of the hue of a class, degrees.
_HUE_SPREAD = 25.0


def demo_class_names(num_classes: int) -> list[str]:
    """Names of the first ``num_classes`` demo classes.

    Raises:
        UserError: there are not so many.
    """
    if not 2 <= num_classes <= len(_SHAPES):
        raise UserError(f"the demo data has 2 to {len(_SHAPES)} classes, not {num_classes}")
    return list(_SHAPES)[:num_classes]


def demo_samples(
    split: str, count: int, num_classes: int, image_size: int, seed: int, start: int = 0
) -> Iterator[dict[str, Any]]:
    """Samples ``start`` to ``start + count - 1`` of a generated split.

    Args:
        split: name of the split; splits are independent of each other.
        count: number of samples.
        num_classes: number of classes; sample i has class i modulo this, so every split is balanced.
        image_size: side of the square images, pixels.
        seed: seed of the set.
        start: index of the first sample.

    Yields:
        ``key`` (no dots), ``jpg`` (JPEG bytes), ``cls`` (class index) and ``mask.png`` (8-bit grey PNG of the image's
        size, 255 on the pixels of which the labelled object covers at least half, else 0).

    Raises:
        UserError: more classes than there are shapes, or images too small to show one.
    """
    names = demo_class_names(num_classes)
    if image_size < 32:
        raise UserError(f"demo images of {image_size} pixels are too small, 32 is the least")
    for index in range(start, start + count):
        rng = np.random.default_rng([seed_of(f"demo {split}", seed) % (1 << 64), index])
        label = index % num_classes
        image, mask = _scene(names[label], 360 * label / num_classes, image_size, rng)
        yield {
            "key": f"{split}-{index:07d}",
            "jpg": _encoded(image, "JPEG", quality=int(rng.integers(75, 96))),
            "cls": label,
            "mask.png": _encoded(mask, "PNG"),
        }


def _scene(name: str, hue: float, size: int, rng: np.random.Generator) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Image (size, size, 3) and mask (size, size) with one object of the named shape and about the given hue."""
    canvas = size * _OVERSAMPLING
    image = _texture(canvas, rng)
    for _ in range(rng.integers(2, 6)):
        image = _paint(image, _distractor(canvas, rng), _texture(canvas, rng), rng)
    mask = _object_mask(name, canvas, rng)
    image = _paint(image, mask, _visible_texture(image, mask, hue, rng), rng)
    coverage = cv2.resize(mask, (size, size), interpolation=cv2.INTER_AREA)
    colours = cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA) * _light(size, rng)[..., None]
    colours = colours + rng.normal(0, rng.uniform(0.01, 0.04), (size, size, 3))
    pixels = (np.clip(colours, 0, 1) * 255).round().astype(np.uint8)
    return pixels, np.where(coverage >= 0.5, 255, 0).astype(np.uint8)


def _paint(image: FloatArray, mask: FloatArray, texture: FloatArray, rng: np.random.Generator) -> FloatArray:
    """Lay a textured object over the image, with a soft shadow beside it that lifts it off the background."""
    offset = rng.uniform(-0.02, 0.02, 2) * len(image)
    moved = cv2.warpAffine(mask, np.array([[1, 0, offset[0]], [0, 1, offset[1]]]), mask.shape)
    shadow = cv2.GaussianBlur(moved, (0, 0), len(image) * 0.012)
    image = image * (1 - rng.uniform(0.2, 0.6) * shadow[..., None])
    return np.where(mask[..., None] > 0, texture, image).astype(np.float32)


def _visible_texture(image: FloatArray, mask: FloatArray, hue: float, rng: np.random.Generator) -> FloatArray:
    """A texture of about the given hue that stands out from the part of the image under the mask."""
    inside = mask > 0
    covered = image[inside].mean(0)
    while True:
        texture = _texture(len(image), rng, hue + rng.normal(0, _HUE_SPREAD))
        if np.linalg.norm(texture[inside].mean(0) - covered) >= _LEAST_CONTRAST:
            return texture


def _light(size: int, rng: np.random.Generator) -> FloatArray:
    """Multiplicative illumination (size, size): brighter on one side."""
    angle, strength = rng.uniform(0, 2 * math.pi), rng.uniform(0, 0.35)
    line = np.linspace(-1, 1, size, dtype=np.float32)
    return 1 + strength * (line[None] * math.cos(angle) + line[:, None] * math.sin(angle)).astype(np.float32)


# --- textures ---------------------------------------------------------------------------------------------------------


def _texture(canvas: int, rng: np.random.Generator, hue: float | None = None) -> FloatArray:
    """Float RGB (canvas, canvas, 3) in 0..1: two colours mixed by stripes, checks, smooth noise or dots.

    The first colour, of which there is more, has the hue (degrees) if one is given.
    """
    pattern = _PATTERNS[rng.integers(len(_PATTERNS))](canvas, rng)
    first, second = _colour(rng, hue), _colour(rng)
    contrast = rng.uniform(0.25, 1.0)
    second = first + contrast * (second - first)
    return first + pattern[..., None] * (second - first)


def _colour(rng: np.random.Generator, hue: float | None = None) -> FloatArray:
    saturation, value = rng.uniform(*((0.0, 0.6) if hue is None else (0.5, 1.0))), rng.uniform(0.25, 1.0)
    hue = rng.uniform(0, 360) if hue is None else hue % 360
    pixel = np.array([[[hue, saturation, value]]], dtype=np.float32)
    return np.asarray(cv2.cvtColor(pixel, cv2.COLOR_HSV2RGB)[0, 0], np.float32)


def _rotated_grid(canvas: int, rng: np.random.Generator) -> tuple[NDArray[Any], NDArray[Any]]:
    """Coordinates in image sides along and across a random direction, with a random origin."""
    angle = rng.uniform(0, math.pi)
    line = np.arange(canvas, dtype=np.float32) / canvas
    x, y = line[None] + np.float32(rng.random()), line[:, None] + np.float32(rng.random())
    return x * math.cos(angle) + y * math.sin(angle), y * math.cos(angle) - x * math.sin(angle)


def _stripes(canvas: int, rng: np.random.Generator) -> FloatArray:
    along, _ = _rotated_grid(canvas, rng)
    wave = np.sin(along * (2 * math.pi * rng.uniform(4, 14)))
    return np.clip(0.5 + wave * rng.uniform(0.5, 3), 0, 1).astype(np.float32)


def _checks(canvas: int, rng: np.random.Generator) -> FloatArray:
    along, across = _rotated_grid(canvas, rng)
    frequency = rng.uniform(3, 8)
    cells = np.floor(along * frequency) + np.floor(across * frequency)
    return (cells % 2).astype(np.float32)


def _dots(canvas: int, rng: np.random.Generator) -> FloatArray:
    along, across = _rotated_grid(canvas, rng)
    frequency, radius = rng.uniform(5, 12), rng.uniform(0.2, 0.45)
    distance = np.hypot(along * frequency % 1 - 0.5, across * frequency % 1 - 0.5)
    return (distance < radius).astype(np.float32)


def _clouds(canvas: int, rng: np.random.Generator) -> FloatArray:
    """Smooth noise: random grids of growing fineness and falling weight, in 0..1."""
    total = np.zeros((canvas, canvas), np.float32)
    cells = int(rng.integers(2, 6))
    for octave in range(4):
        grid = rng.random((cells << octave, cells << octave), dtype=np.float32)
        total += cv2.resize(grid, (canvas, canvas), interpolation=cv2.INTER_CUBIC) * 0.6**octave
    low, high = float(total.min()), float(total.max())
    return (total - low) / (high - low)


_PATTERNS: tuple[Callable[[int, np.random.Generator], FloatArray], ...] = (_stripes, _checks, _dots, _clouds, _clouds)


# --- shapes -----------------------------------------------------------------------------------------------------------


def _regular(corners: int, phase: float = 0.0) -> FloatArray:
    angles = 2 * math.pi * np.arange(corners) / corners + phase
    return np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32)


def _star(points: int, inner: float) -> FloatArray:
    outline = _regular(2 * points)
    outline[1::2] *= inner
    return outline


def _cross(arm: float) -> FloatArray:
    quarter = np.array([[1, -arm], [1, arm], [arm, arm]], np.float32)
    turns = [np.array([[0, -1], [1, 0]], np.float32)]
    for _ in range(3):
        turns.append(turns[0] @ turns[-1])
    return np.concatenate([quarter @ np.linalg.matrix_power(turns[0], k).T for k in range(4)])


def _heart() -> FloatArray:
    t = np.linspace(0, 2 * math.pi, 60, endpoint=False)
    x = 16 * np.sin(t) ** 3
    y = -(13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t))
    return np.stack([x / 17, (y + 2.5) / 17], 1).astype(np.float32)


def _crescent() -> FloatArray:
    t = np.linspace(-0.72 * math.pi, 0.72 * math.pi, 50)
    outer = np.stack([-np.cos(t), np.sin(t)], 1)
    inner = np.stack([-0.72 * np.cos(t) + 0.42, 0.80 * np.sin(t)], 1)[::-1]
    return np.concatenate([outer, inner]).astype(np.float32)


def _arrow() -> FloatArray:
    corners = [[1, 0], [0.1, 0.85], [0.1, 0.33], [-1, 0.33], [-1, -0.33], [0.1, -0.33], [0.1, -0.85]]
    return np.array(corners, np.float32)


# Name and outlines, in a unit circle; the areas of several outlines are combined by the even-odd rule (holes).
_SHAPES: dict[str, list[FloatArray]] = {
    "disc": [_regular(64)],
    "square": [_regular(4)],
    "triangle": [_regular(3)],
    "star": [_star(5, 0.42)],
    "cross": [_cross(0.33)],
    "ring": [_regular(64), _regular(64) * 0.55],
    "crescent": [_crescent()],
    "heart": [_heart()],
    "arrow": [_arrow()],
    "frame": [_regular(4), _regular(4) * 0.55],
}


def _object_mask(name: str, canvas: int, rng: np.random.Generator) -> FloatArray:
    """Float mask (canvas, canvas) in {0, 1} of the shape, wholly inside, of random size, rotation, stretch and place."""
    radius = canvas * rng.uniform(0.22, 0.4)
    angle, stretch = rng.uniform(0, 2 * math.pi), rng.uniform(0.8, 1.0)
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    tilt = rng.uniform(0, math.pi)
    axis = np.array([[math.cos(tilt), -math.sin(tilt)], [math.sin(tilt), math.cos(tilt)]])
    matrix = radius * (turn @ axis @ np.diag([1.0, stretch]) @ axis.T)
    margin = 1.05 * radius
    centre = rng.uniform(margin, canvas - margin, 2)
    return _filled([outline @ matrix.T + centre for outline in _SHAPES[name]], canvas)


def _distractor(canvas: int, rng: np.random.Generator) -> FloatArray:
    """Mask of something that is of no class: a smooth blob or a bent stroke."""
    centre = rng.uniform(0, canvas, 2)
    if rng.random() < 0.5:
        angles = np.linspace(0, 2 * math.pi, 48, endpoint=False)
        waves = sum(rng.uniform(0, 0.35 / k) * np.sin(k * angles + rng.uniform(0, 6.3)) for k in (2, 3, 4, 5))
        radius = canvas * rng.uniform(0.06, 0.2) * (1 + waves)
        return _filled([np.stack([radius * np.cos(angles), radius * np.sin(angles)], 1) + centre], canvas)
    steps = np.cumsum(rng.normal(0, 0.25, 12)) + rng.uniform(0, 2 * math.pi)
    path = centre + np.cumsum(np.stack([np.cos(steps), np.sin(steps)], 1), 0) * canvas * rng.uniform(0.03, 0.06)
    mask = np.zeros((canvas, canvas), np.float32)
    width = max(1, int(canvas * rng.uniform(0.02, 0.06)))
    cv2.polylines(mask, [path.round().astype(np.int32)], False, 1.0, thickness=width)
    return mask


def _filled(outlines: list[NDArray[Any]], canvas: int) -> FloatArray:
    mask = np.zeros((canvas, canvas), np.float32)
    cv2.fillPoly(mask, [outline.round().astype(np.int32) for outline in outlines], 1.0)
    return mask


def _encoded(pixels: NDArray[np.uint8], kind: str, **options: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()
