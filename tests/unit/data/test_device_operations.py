"""Operations on a batch at once against the Pillow operations that timm calls, bit for bit, whatever the grouping."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import auto_augment as timm_augment
from torch import Tensor
from torch._inductor import metrics

from sar_dist.config import AugmentSettings
from sar_dist.data.images import Canvas, DrawnOperation, Kind, build_operation_draw, build_train_transform, make_plan
from sar_dist.data.images import compiled as compiled_functions
from sar_dist.data.images import device_operations as operations
from sar_dist.data.images.compiled import Compiled
from sar_dist.data.images.device_augment import DeviceAugment
from sar_dist.data.images.device_plan import AMOUNTS, GROUP_MULTIPLE
from sar_dist.randomness import seed_generators

SIDE = 48
FILL = (124, 116, 104)
RESAMPLING = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
RECIPES = {
    "RandAugment": {"rand_augment": "rand-m9-n3-mstd0.5-inc1"},
    "strong RandAugment": {"rand_augment": "rand-m15-mmax20-mstd101-p1"},
    "3-Augment": {"three_augment": True, "color_jitter": 0.3},
    "flip alone": {},
}
FACTORS = (0.0, 0.1, 0.37, 0.73, 1.0, 1.123, 1.31, 1.9, 2.6)
SHEARS = tuple(side * magnitude * 0.03 for magnitude in range(21) for side in (-1, 1))
TRANSLATIONS = (*(amount * SIDE * 1.5 for amount in SHEARS), 0.25, -0.5, 7.0, 500.0, -500.0)
# Of every kind all amounts, or those of all whole magnitudes from 0 to 20 and some more.
AMOUNTS_OF: dict[Kind, tuple[float, ...]] = {
    Kind.INVERT: (0.0,),
    Kind.POSTERIZE: tuple(range(1, 9)),
    Kind.SOLARIZE: tuple(range(257)),
    Kind.SOLARIZE_ADD: tuple(range(129)),
    Kind.BRIGHTNESS: FACTORS,
    Kind.CONTRAST: FACTORS,
    Kind.AUTO_CONTRAST: (0.0,),
    Kind.EQUALIZE: (0.0,),
    Kind.COLOR: FACTORS,
    Kind.SHARPNESS: FACTORS,
    Kind.SHEAR_X: SHEARS,
    Kind.SHEAR_Y: SHEARS,
    Kind.TRANSLATE_X: TRANSLATIONS,
    Kind.TRANSLATE_Y: TRANSLATIONS,
    Kind.ROTATE: (*(100 * shear for shear in SHEARS), 90.0, 12.3456),
    Kind.BLUR: (*(0.1 + 0.1 * step for step in range(20)), 1.98),
    Kind.FLIP: (0.0,),
}
FAMILIES = 8


def resamples(kind: Kind) -> bool:
    return Kind.SHEAR_X <= kind <= Kind.ROTATE


def pictures() -> list[Image.Image]:
    """Noise, a smooth picture, a dark one, one of two levels, an even one, and one whose channels have one level each."""
    rng = np.random.default_rng(0)
    noise, small, dark, two = (
        rng.integers(low, high, (size, size, 3), dtype=np.uint8)
        for low, high, size in ((0, 256, SIDE), (0, 256, 6), (20, 60, SIDE), (0, 2, SIDE))
    )
    smooth = Image.fromarray(small).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    even = [Image.new("RGB", (SIDE, SIDE), colour) for colour in ((90, 90, 90), (7, 100, 255))]
    return [Image.fromarray(noise), smooth, Image.fromarray(dark), Image.fromarray(two * 200), *even]


def to_tensor(images: list[Image.Image]) -> Tensor:
    return torch.from_numpy(np.stack([np.array(image).transpose(2, 0, 1) for image in images]))


def pillow(image: Image.Image, drawn: DrawnOperation, interpolation: str) -> Image.Image:
    """The operation as timm calls Pillow."""
    names: dict[Kind, str] = {kind: "".join(map(str.capitalize, kind.name.split("_"))) for kind in Kind}
    cubic = {"fillcolor": FILL, "resample": RESAMPLING[interpolation]}
    if drawn.kind is Kind.FLIP:
        return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if drawn.kind is Kind.BLUR:
        return timm_augment.gaussian_blur(image, drawn.amount)
    call: Callable[..., Image.Image] = timm_augment.NAME_TO_OP[names[drawn.kind]]
    if resamples(drawn.kind):
        return call(image, drawn.amount, **cubic)
    alone = drawn.kind in (Kind.INVERT, Kind.AUTO_CONTRAST, Kind.EQUALIZE)
    return call(image) if alone else call(image, drawn.amount)


def augment(images: Tensor, drawn: list[list[DrawnOperation]], **settings: Any) -> Tensor:
    device_augment = DeviceAugment(AugmentSettings(**settings), compiled=False)
    canvas = Canvas(settings.get("interpolation", "bicubic"), FILL)
    return device_augment(images, *make_plan(drawn, images.shape[-1], canvas))


@pytest.mark.parametrize(
    ("kind", "interpolation"),
    [*((kind, "bicubic") for kind in Kind), *((kind, "bilinear") for kind in Kind if resamples(kind))],
    ids=lambda value: value.name if isinstance(value, Kind) else value,
)
def test_every_operation_at_every_strength_equals_pillow(kind: Kind, interpolation: str) -> None:
    images = pictures()
    before = to_tensor(images)
    for amount in AMOUNTS_OF[kind]:
        drawn = DrawnOperation(kind, amount)
        tensor = before.clone()
        result = augment(tensor, [[drawn]] * len(images), interpolation=interpolation)
        assert torch.equal(tensor, before), "the batch was changed"
        expected = to_tensor([pillow(image, drawn, interpolation) for image in images])
        assert torch.equal(result, expected), (drawn, (result.int() - expected).abs().max())


@pytest.mark.parametrize("kind", [kind for kind in Kind if resamples(kind)], ids=lambda kind: kind.name)
def test_geometric_operations_on_what_is_not_square_equal_pillow(kind: Kind) -> None:
    rng = np.random.default_rng(0)
    images = [Image.fromarray(rng.integers(0, 256, (24, 40, 3), dtype=np.uint8)) for _ in range(2)]
    for amount in AMOUNTS_OF[kind]:
        drawn = DrawnOperation(kind, amount)
        plan = make_plan([[drawn]] * 2, (24, 40), Canvas("bicubic", FILL))
        result = DeviceAugment(AugmentSettings(), compiled=False)(to_tensor(images), *plan)
        assert torch.equal(result, to_tensor([pillow(image, drawn, "bicubic") for image in images])), drawn


def test_a_translation_is_a_share_of_the_side_that_it_runs_along() -> None:
    draw, largest = build_operation_draw(AugmentSettings(rand_augment="rand-m10-n8-p1"), (20, 60)), {}
    for number in range(200):
        seed_generators(3, number)
        for drawn in draw():
            largest[drawn.kind] = max(largest.get(drawn.kind, 0), abs(drawn.amount))
    assert largest[Kind.TRANSLATE_X] == pytest.approx(0.45 * 60)
    assert largest[Kind.TRANSLATE_Y] == pytest.approx(0.45 * 20)


def test_images_without_an_inside_are_left_alone_by_sharpness() -> None:
    tiny = to_tensor([Image.new("RGB", (2, 2), (1, 2, 3))])
    assert torch.equal(augment(tiny, [[DrawnOperation(Kind.SHARPNESS, 1.9)]]), tiny)


def draws(recipe: dict[str, Any], count: int, side: int = SIDE) -> list[list[DrawnOperation]]:
    draw, found = build_operation_draw(AugmentSettings(**recipe), side), []
    for number in range(count):
        seed_generators(3, number)
        found.append(draw())
    return found


@pytest.mark.parametrize("recipe", RECIPES)
def test_whole_recipes_equal_pillow_one_operation_after_the_other(recipe: str) -> None:
    images = pictures() * 10
    drawn = draws(RECIPES[recipe], len(images))
    expected = []
    for image, operations_of_image in zip(images, drawn, strict=True):
        for operation in operations_of_image:
            limited = operation._replace(amount=max(operation.amount, 1))  # as make_posterize_safe
            image = pillow(image, limited if operation.kind is Kind.POSTERIZE else operation, "bicubic")
        expected.append(image)
    assert torch.equal(augment(to_tensor(images), drawn), to_tensor(expected))


def test_result_does_not_depend_on_the_other_images_of_the_batch() -> None:
    images = to_tensor(pictures() * 4)
    drawn = draws(RECIPES["RandAugment"], len(images))
    whole = augment(images, drawn)
    order = random.Random(0).sample(range(len(images)), len(images))
    for size in (1, 5, 24):
        for start in range(0, len(images), size):
            part = order[start : start + size]
            assert torch.equal(augment(images[part], [drawn[number] for number in part]), whole[part])


def test_groups_are_of_few_sizes_and_nothing_is_lost() -> None:
    drawn = draws({"rand_augment": "rand-m9-n3-mstd0.5-inc1", "color_jitter": 0.3}, 64)
    plan, packed = make_plan(drawn, SIDE, Canvas("bicubic", FILL))
    index, amounts, tables, flips = plan.unpack(packed)
    assert packed.dtype == torch.uint8
    assert flips.tolist() == [bool(found) and found[0].kind is Kind.FLIP for found in drawn]
    assert amounts.shape == (plan.entries, AMOUNTS)
    assert tables.shape == (plan.tables, 256)
    pairs = set()
    for depth, layer in enumerate(plan.layers):
        assert len({group.family for group in layer}) == len(layer) <= FAMILIES
        for group in layer:
            assert (group.stop - group.start) % GROUP_MULTIPLE == 0
            pairs |= {(number, depth) for number in index[group.start : group.stop].tolist()}
    rest = [len(found) - flip for found, flip in zip(drawn, flips.tolist(), strict=True)]
    assert pairs == {(number, depth) for number, length in enumerate(rest) for depth in range(length)}


def test_batch_without_anything_drawn() -> None:
    images = to_tensor(pictures())
    assert torch.equal(augment(images, [[]] * len(images)), images)


def test_crop_and_draws_are_the_same_wherever_the_rest_is_done() -> None:
    """The worker's transform, and the crop followed by the device's operations: equal but for OpenCV's rounding."""
    import io

    recipe: dict[str, Any] = {"rand_augment": "rand-m9-mstd0.5-inc1", "color_jitter": 0.2}
    file = io.BytesIO()
    pictures()[1].resize((90, 70)).save(file, "PNG")
    worker, device = (
        build_train_transform(AugmentSettings(where=where, **recipe), SIDE, 10**6) for where in ("worker", "device")
    )
    draw = build_operation_draw(AugmentSettings(**recipe), SIDE)
    expected, crops, drawn = [], [], []
    for number in range(60):
        seed_generators(number)
        expected.append(worker(file.getvalue()))
        state = random.random(), torch.rand(1).item()
        seed_generators(number)
        crops.append(device(file.getvalue()))
        drawn.append(draw())
        assert (random.random(), torch.rand(1).item()) == state
    result = augment(torch.stack(crops), drawn, **recipe)
    difference = (result.int() - torch.stack(expected)).abs()
    assert difference.max() <= 12  # a difference of one level before an equalize may grow
    assert (difference > 0).float().mean() < 0.01


@pytest.mark.long
@pytest.mark.filterwarnings("ignore")
def test_compiled_operations_are_few_kernels_and_equal() -> None:
    """With Inductor, by which a GPU's kernels are made too: the same bits, compiled once for any number of images."""
    compiled = DeviceAugment(AugmentSettings(), compiled=True)
    images = to_tensor(pictures() * 4)
    recipe = {"rand_augment": "rand-m9-n6-p1-mstd0.5-inc1"}
    metrics.reset()
    kernels = []
    for start in (0, 100, 200):
        drawn = draws(recipe, start + len(images))[start:]
        drawn[3] += [DrawnOperation(Kind.BLUR, 0.7)]
        plan = make_plan(drawn, SIDE, Canvas("bicubic", FILL))
        assert torch.equal(compiled(images, *plan), augment(images, drawn))
        kernels.append(metrics.generated_kernel_count)
    assert kernels == 3 * kernels[:1]
    assert kernels[0] <= 24


def test_function_that_cannot_be_compiled_runs_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(compiled_functions, "warn", said.append)
    broken = Compiled(operations.flip)
    broken._run = torch.compile(operations.flip, backend=no_compiler)
    images, flips = to_tensor(pictures()), torch.tensor([1, 0, 1, 0, 0, 1], dtype=torch.uint8)
    for _ in range(2):
        assert torch.equal(broken(images, flips), operations.flip(images, flips))
    assert len(said) == 1
    assert "flip of the device augmentation cannot be compiled" in said[0]
    assert "no compiler here" in said[0]


def no_compiler(*_: object) -> Any:
    raise RuntimeError("no compiler here")
