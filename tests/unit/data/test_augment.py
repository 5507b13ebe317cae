"""Train and eval transforms: the fast backend against timm's, the distribution of crops, purity, odd images."""

# timm draws from numpy's global generator, so the tests seed and read it.
# ruff: noqa: NPY002

import io
import pickle
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import create_transform
from timm.data.transforms import RandomResizedCropAndInterpolation

from sar_dist.config.settings import AugmentSettings
from sar_dist.data.images.augment import Transform, build_eval_transform, build_train_transform, random_crop_box
from sar_dist.data.images.decode import UndecodableImage
from sar_dist.data.making.demo import demo_samples

LIMIT = 10_000_000
REAL_IMAGES = sorted(Path(__file__).parents[4].glob("shared/data/imagenet_samples/*/*.[Jj]*"))
RECIPES = {
    "crop and flip": {},
    "RandAugment": {"rand_augment": "rand-m9-mstd0.5-inc1"},
    "3-Augment": {"three_augment": True, "color_jitter": 0.3},
    "jitter, bilinear": {"color_jitter": 0.4, "interpolation": "bilinear"},
    "no flip, large crops": {"horizontal_flip": 0.0, "scale": (0.35, 1.0), "ratio": (0.9, 1.1)},
}


def jpegs() -> list[bytes]:
    """Real photographs where there are some, and generated scenes."""
    return [path.read_bytes() for path in REAL_IMAGES[:40]] + [
        sample["jpg"] for sample in demo_samples("train", 20, 8, 160, seed=0)
    ]


def encoded(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def seed_all(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)
    torch.default_generator.manual_seed(seed)


def generator_states() -> tuple[float, float, float]:
    return random.random(), np.random.rand(), torch.rand(1).item()


def both_backends(recipe: dict[str, object], size: int) -> tuple[Transform, Transform]:
    fast, pil = (AugmentSettings(backend=backend, **recipe) for backend in ("fast", "pil"))
    return build_train_transform(fast, size, LIMIT), build_train_transform(pil, size, LIMIT)


@pytest.mark.parametrize("name", RECIPES)
def test_backends_agree_image_by_image(name: str) -> None:
    """Equal seeds: the same crop, flip and operations, so that only arithmetic differs."""
    fast, pil = both_backends(RECIPES[name], 112)
    differences = []
    for seed, data in enumerate(jpegs()):
        seed_all(seed)
        result, states = fast(data), generator_states()
        seed_all(seed)
        expected = pil(data)
        assert expected.is_contiguous()
        assert states == generator_states()
        assert result.shape == expected.shape == (3, 112, 112)
        assert result.dtype == torch.uint8
        assert result.is_contiguous()
        differences.append((result.int() - expected.int()).abs().float().mean().item())
    assert np.mean(differences) < 0.1
    assert np.max(differences) < 1.5


def test_pil_backend_is_timm() -> None:
    timm_transform = create_transform(
        96,
        is_training=True,
        color_jitter=None,
        auto_augment="rand-m7-mstd0.5-inc1",
        interpolation="bicubic",
        normalize=False,
    )
    ours = build_train_transform(AugmentSettings(backend="pil", rand_augment="rand-m7-mstd0.5-inc1"), 96, LIMIT)
    for seed, data in enumerate(jpegs()[:25]):
        seed_all(seed)
        expected = timm_transform(Image.open(io.BytesIO(data)).convert("RGB"))
        seed_all(seed)
        assert torch.equal(ours(data), expected)


def shapes() -> list[bytes]:
    """Generated scenes, cut to odd shapes: wide, tall, tiny, square."""
    scenes = [Image.open(io.BytesIO(sample["jpg"])) for sample in demo_samples("train", 8, 8, 240, seed=1)]
    sizes = [(240, 101), (77, 240), (240, 180), (31, 33), (3, 200), (200, 3), (64, 64), (97, 97)]
    return [encoded(scene.crop((0, 0, *size))) for scene, size in zip(scenes, sizes, strict=True)]


@pytest.mark.parametrize("backend", ["fast", "pil"])
@pytest.mark.parametrize("mode", ["center", "squash", "border"])
@pytest.mark.parametrize(("size", "crop_fraction"), [(224, 0.875), (64, 0.9), (96, 1.0)])
def test_eval_equals_timm(backend: str, mode: str, size: int, crop_fraction: float) -> None:
    mean = (0.5, 0.1, 0.9)
    settings = AugmentSettings(backend=backend, crop_fraction=crop_fraction, crop_mode=mode, mean=mean)
    ours = build_eval_transform(settings, size, LIMIT)
    timm_transform = create_transform(
        size, crop_pct=crop_fraction, crop_mode=mode, mean=mean, interpolation="bicubic", normalize=False
    )
    odd = shapes()[:4] if mode == "center" else shapes()
    for data in [*jpegs()[::3], *odd]:
        expected = timm_transform(Image.open(io.BytesIO(data)).convert("RGB"))
        result = ours(data)
        assert result.shape == (3, size, size)
        assert result.is_contiguous()
        difference = (result.int() - expected.int()).abs()
        assert difference.max() <= (0 if backend == "pil" else 2 if mode == "center" else 4)
        assert difference.float().mean() < (0.25 if data in odd or mode != "center" else 0.1)


@pytest.mark.parametrize("backend", ["fast", "pil"])
@pytest.mark.parametrize("size", [(96, 64), (48, 128)])
def test_transforms_to_a_height_and_width_equal_timm(backend: str, size: tuple[int, int]) -> None:
    for mode in ("center", "squash", "border"):
        settings = AugmentSettings(backend=backend, crop_mode=mode)
        ours = build_eval_transform(settings, size, LIMIT)
        theirs = create_transform(size, crop_pct=0.875, crop_mode=mode, interpolation="bicubic", normalize=False)
        for data in [*jpegs()[::12], *shapes()[:4]]:
            difference = (ours(data).int() - theirs(Image.open(io.BytesIO(data)).convert("RGB")).int()).abs()
            assert difference.shape == (3, *size)
            assert difference.max() <= (0 if backend == "pil" else 4), mode
    settings = AugmentSettings(backend=backend)
    train = build_train_transform(settings, size, LIMIT)
    theirs = create_transform(size, is_training=True, color_jitter=None, interpolation="bicubic", normalize=False)
    for seed, data in enumerate(jpegs()[:3]):
        seed_all(seed)
        expected = theirs(Image.open(io.BytesIO(data)).convert("RGB"))
        seed_all(seed)
        result = train(data)
        assert result.shape == (3, *size)
        assert (result.int() - expected.int()).abs().max() <= (0 if backend == "pil" else 4)


@pytest.mark.parametrize(("height", "width"), [(375, 500), (500, 333), (64, 64), (30, 900), (900, 20)])
def test_crop_boxes_are_timm_s(height: int, width: int) -> None:
    image = Image.new("L", (width, height))
    for scale, ratio in (((0.08, 1.0), (3 / 4, 4 / 3)), ((0.5, 0.6), (0.5, 0.9))):
        for seed in range(300):
            random.seed(seed)
            expected = RandomResizedCropAndInterpolation.get_params(image, scale, ratio)
            state = random.random()
            random.seed(seed)
            assert random_crop_box(height, width, scale, ratio) == expected
            assert random.random() == state


def test_same_seed_same_pixels_after_pickling() -> None:
    data = jpegs()[0]
    for recipe in RECIPES.values():
        for transform in both_backends(recipe, 64):
            copy = pickle.loads(pickle.dumps(transform))
            seed_all(5)
            first = transform(data)
            seed_all(6)
            other = transform(data)
            seed_all(5)
            assert torch.equal(copy(data), first)
            assert not torch.equal(first, other)


@pytest.mark.parametrize("backend", ["fast", "pil"])
@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1), (2, 3), (20_000, 1), (1, 20_000), (37, 600)])
def test_odd_image_shapes(backend: str, size: tuple[int, int]) -> None:
    """One pixel, lines, and what would ask for gigapixels if its short side were resized to the crop."""
    data = encoded(Image.new("RGB", size, (10, 200, 30)))
    settings = AugmentSettings(backend=backend, rand_augment="rand-m9-mstd0.5-inc1")
    for mode in ("center", "squash", "border"):
        validation = build_eval_transform(settings.model_copy(update={"crop_mode": mode}), 32, LIMIT)
        assert validation(data).shape == (3, 32, 32)
        middle = validation(data)[:, 15:17, 15:17]  # a border may leave a single pixel of the image
        assert (middle == torch.tensor([10, 200, 30])[:, None, None]).all(dim=0).any()
    train = build_train_transform(settings, 32, LIMIT)
    for seed in range(20):
        seed_all(seed)
        assert train(data).shape == (3, 32, 32)


@pytest.mark.parametrize("backend", ["fast", "pil"])
def test_undecodable_bytes_raise_the_one_exception(backend: str) -> None:
    settings = AugmentSettings(backend=backend)
    whole = jpegs()[0]
    for build in (build_train_transform, build_eval_transform):
        for data, limit in ((b"", LIMIT), (whole[: len(whole) // 2], LIMIT), (whole, 100)):
            with pytest.raises(UndecodableImage):
                build(settings, 32, limit)(data)
