"""Our array operations against the Pillow operations that timm calls, and RandAugment draw for draw."""

# timm draws from numpy's global generator, so the tests seed and read it.
# ruff: noqa: NPY002

import math
import random
from collections import Counter
from collections.abc import Callable, Iterable

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import auto_augment as timm_augment

from sar_dist.config.settings import AugmentSettings
from sar_dist.data.images import image_operations as operations
from sar_dist.data.images.augment import PilTransform, build_train_transform, make_posterize_safe
from sar_dist.data.images.drawn_operations import Canvas, DrawnOperation, Kind, apply_on_host
from sar_dist.data.images.image_operations import ImageArray
from sar_dist.data.images.rand_augment import (
    RandAugment,
    RandAugmentPolicy,
    build_operation_draw,
    parse_rand_augment,
)
from sar_dist.errors import UserError

FILL = (124, 116, 104)
RESAMPLING = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
NOTATIONS = ["rand-m9-mstd0.5-inc1", "rand-m9-mstd0.5", "rand-m7-n3-p1", "rand-m15-mmax20-mstd101-inc1", "rand"]


def pictures() -> list[Image.Image]:
    """Noise, a smooth picture, an even one, one of two levels, and odd shapes."""
    rng = np.random.default_rng(0)
    noise = Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8))
    smooth = Image.fromarray(rng.integers(0, 256, (6, 5, 3), dtype=np.uint8)).resize((63, 48), Image.Resampling.BICUBIC)
    dark = Image.fromarray(rng.integers(20, 60, (50, 70, 3), dtype=np.uint8))
    two_levels = Image.fromarray(rng.integers(0, 2, (32, 32, 3), dtype=np.uint8) * 200)
    return [noise, smooth, dark, two_levels, Image.new("RGB", (33, 20), (7, 100, 255)), noise.crop((0, 0, 5, 3))]


def to_array(image: Image.Image) -> ImageArray:
    return np.ascontiguousarray(np.array(image).transpose(2, 0, 1))


def applied(image: Image.Image, drawn: Iterable[DrawnOperation]) -> ImageArray:
    """The image after what was drawn for it."""
    array = to_array(image)
    for operation in drawn:
        array = apply_on_host(array, operation, Canvas("bicubic", FILL))
    return array


def seed_all(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)
    torch.default_generator.manual_seed(seed)


def assert_parity(theirs: Image.Image, ours: ImageArray, most_differing: float, most: int = 1) -> None:
    difference = np.abs(to_array(theirs).astype(int) - ours)
    assert ours.dtype == np.uint8
    assert ours.flags.c_contiguous
    assert difference.max() <= most
    assert (difference > 0).mean() <= most_differing


EXACT: dict[str, tuple[Callable[..., ImageArray], list[tuple[float, ...]]]] = {
    "AutoContrast": (operations.auto_contrast, [()]),
    "Equalize": (operations.equalize, [()]),
    "Invert": (operations.invert, [()]),
    "Posterize": (operations.posterize, [(bits,) for bits in range(1, 9)]),
    "Solarize": (operations.solarize, [(threshold,) for threshold in (0, 1, 100, 128, 255, 256)]),
    "SolarizeAdd": (operations.solarize_add, [(amount,) for amount in (0, 1, 60, 110, 128)]),
    "Brightness": (operations.brightness, [(factor,) for factor in (0.1, 0.73, 1.0, 1.31, 1.9)]),
    "Contrast": (operations.contrast, [(factor,) for factor in (0.1, 0.73, 1.0, 1.31, 1.9)]),
}


@pytest.mark.parametrize("name", EXACT)
def test_table_operations_equal_pillow(name: str) -> None:
    operation, cases = EXACT[name]
    for image in pictures():
        for arguments in cases:
            before = to_array(image)
            array = before.copy()
            assert_parity(timm_augment.NAME_TO_OP[name](image, *arguments), operation(array, *arguments), 0.0, most=0)
            assert np.array_equal(array, before), "an operation changed its argument"


@pytest.mark.parametrize("name", ["Color", "Sharpness"])
def test_blending_operations_equal_pillow(name: str) -> None:
    operation = {"Color": operations.color, "Sharpness": operations.sharpness}[name]
    for image in pictures():
        for factor in (0.0, 0.1, 0.437, 1.0, 1.25, 1.9):
            assert_parity(timm_augment.NAME_TO_OP[name](image, factor), operation(to_array(image), factor), 0.005)


def test_gaussian_blur_equals_pillow() -> None:
    for image in pictures():
        for radius in (0.1, 0.33, 0.61, 1.07, 1.52, 1.98):
            ours = operations.gaussian_blur(to_array(image), radius)
            assert_parity(timm_augment.gaussian_blur(image, radius), ours, 0.02)


@pytest.mark.parametrize("interpolation", RESAMPLING)
@pytest.mark.parametrize("name", ["ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate"])
def test_geometric_operations_equal_pillow(name: str, interpolation: operations.Interpolation) -> None:
    # Amounts without short fractions: with those, sums fall on whole levels, and rounding errors decide which way.
    operation, amounts = {
        "ShearX": (operations.shear_x, (-0.29871, -0.012347, 0.0, 0.11719)),
        "ShearY": (operations.shear_y, (-0.29871, -0.012347, 0.0, 0.11719)),
        "TranslateX": (operations.translate_x, (-31.91237, -0.5, 0.0, 0.25, 7.0, 500.0)),
        "TranslateY": (operations.translate_y, (-31.91237, -0.5, 0.0, 0.25, 7.0, -500.0)),
        "Rotate": (operations.rotate, (-30.0, -3.3, 0.0, 12.0, 30.0)),
    }[name]
    for image in pictures():
        for amount in amounts:
            theirs = timm_augment.NAME_TO_OP[name](image, amount, fillcolor=FILL, resample=RESAMPLING[interpolation])
            assert_parity(theirs, operation(to_array(image), amount, FILL, interpolation), 0.01)


@pytest.mark.parametrize("notation", NOTATIONS)
def test_rand_augment_equals_timm_draw_for_draw(notation: str) -> None:
    """With equal seeds: the same operations at the same strength, and the generators left in the same state."""
    ours = RandAugment(parse_rand_augment(notation))
    theirs = timm_augment.rand_augment_transform(notation, {"img_mean": FILL, "interpolation": RESAMPLING["bicubic"]})
    make_posterize_safe([theirs])
    image = pictures()[1].crop((0, 0, 48, 48))
    for seed in range(150):
        seed_all(seed)
        expected = theirs(image)
        state = random.random(), np.random.rand()
        seed_all(seed)
        result = applied(image, ours((48, 48)))
        assert state == (random.random(), np.random.rand())
        # A difference of one level before an equalize or a second blend may grow.
        assert_parity(expected, result, 0.05, most=12)


def test_draw_frequencies() -> None:
    """15 operations, each drawn with probability 2/15 per image and then applied half of the time."""
    policy = RandAugment(RandAugmentPolicy())
    seed_all(0)
    draws = 30_000
    counts = Counter(drawn.kind for _ in range(draws) for drawn in policy((1, 1)))
    expected = draws / 15
    assert len(counts) == 15
    assert all(abs(count - expected) < 5 * math.sqrt(expected) for count in counts.values())


@pytest.mark.parametrize("backend", ["fast", "pil"])
def test_twenty_thousand_draws_never_fail(backend: str) -> None:
    """timm 1.0 with Pillow 13 raises on about 31 of these: posterize to 0 bits."""
    settings = AugmentSettings(backend=backend, rand_augment="rand-m9-mstd0.5-inc1")
    image = pictures()[0].resize((16, 16))
    if backend == "fast":
        draw = build_operation_draw(settings, 16)
        shapes = {applied(image, draw()).shape for _ in seeded(20_000)}
    else:
        transform = build_train_transform(settings, 16, max_pixels=10_000)
        assert isinstance(transform, PilTransform)
        shapes = {transform.pipeline(image).shape for _ in seeded(20_000)}
    assert shapes == {(3, 16, 16)}


def seeded(count: int) -> range:
    seed_all(123)
    return range(count)


def test_posterize_to_no_bits_keeps_one() -> None:
    array = to_array(pictures()[0])
    assert np.array_equal(operations.posterize(array, 0), operations.posterize(array, 1))
    policy = RandAugment(RandAugmentPolicy(magnitude=10, increasing=True, layers=200, probability=1))
    seed_all(0)
    drawn = {operation for operation in policy((16, 16)) if operation.kind is Kind.POSTERIZE}
    assert drawn == {DrawnOperation(Kind.POSTERIZE, 0)}
    assert np.array_equal(applied(pictures()[0], drawn), array & 128)


@pytest.mark.parametrize(
    ("notation", "policy"),
    [
        ("rand", RandAugmentPolicy()),
        ("rand-m9-mstd0.5-inc1", RandAugmentPolicy(9, 0.5, increasing=True)),
        ("rand-inc0-n3-p0.25-m4", RandAugmentPolicy(4, layers=3, probability=0.25)),
        ("rand-m9-mstd101-mmax15", RandAugmentPolicy(9, math.inf, 15)),
    ],
)
def test_notation(notation: str, policy: RandAugmentPolicy) -> None:
    assert parse_rand_augment(notation) == policy


@pytest.mark.parametrize(
    ("notation", "complaint"),
    [
        ("", "must start with 'rand'"),
        ("augmix-m3", "must start with 'rand'"),
        ("rand-", "'' is none of"),
        ("rand-x9", "'x9' is none of"),
        ("rand-m", "'m' is none of"),
        ("rand-m-9", "'m' is none of"),
        ("rand-m9.5", "'m9.5' takes a whole number"),
        ("rand-inc2", "'inc2' takes a whole number 0 or 1"),
        ("rand-p1.5", "p must be at most 1"),
        ("rand-n100000000", "n at most 100"),
        ("rand-tweights", "'tweights' is none of"),
        ("rand-m9 -mstd0.5", "'m9 ' is none of"),
        ("rand-minf", "'minf' takes a whole number"),
    ],
)
def test_wrong_notation_is_one_clear_line(notation: str, complaint: str) -> None:
    with pytest.raises(UserError, match=complaint) as caught:
        parse_rand_augment(notation)
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError):
        build_operation_draw(AugmentSettings(rand_augment=notation), 16)
