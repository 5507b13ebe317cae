"""DeiT-III's 3-Augment and colour jitter against timm's and torchvision's, draw for draw."""

# timm draws from numpy's global generator, so the tests seed and read it.
# ruff: noqa: NPY002

import random
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError
from timm.data.auto_augment import auto_augment_transform
from torchvision.transforms import ColorJitter as TorchvisionColorJitter

from sar_dist.config.settings import AugmentSettings
from sar_dist.data.images.drawn_operations import Canvas, DrawnOperation, apply_on_host
from sar_dist.data.images.image_operations import ImageArray
from sar_dist.data.images.rand_augment import ColorJitter, HorizontalFlip, build_operation_draw, three_augment


def picture() -> Image.Image:
    small = np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((65, 50), Image.Resampling.BICUBIC)


def to_array(image: Image.Image) -> ImageArray:
    return np.ascontiguousarray(np.array(image).transpose(2, 0, 1))


def applied(image: Image.Image, drawn: list[DrawnOperation]) -> ImageArray:
    array = to_array(image)
    for operation in drawn:
        array = apply_on_host(array, operation, Canvas("bicubic", (0, 0, 0)))
    return array


def seed_all(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)
    torch.default_generator.manual_seed(seed)


def test_three_augment_equals_timm() -> None:
    theirs, image = auto_augment_transform("3a", {}), picture()
    kinds: Counter[str] = Counter()
    for seed in range(90):
        seed_all(seed)
        expected = to_array(theirs(image)).astype(int)
        state = random.random()
        seed_all(seed)
        result = applied(image, three_augment((50, 50)))
        assert state == random.random()
        difference = np.abs(expected - result)
        assert difference.max() <= 1
        assert difference.mean() <= 0.02
        grey = (result == result[:1]).all()
        kinds["grey" if grey else "solarize" if difference.max() == 0 else "blur"] += 1
    assert kinds["grey"] > 15


def test_color_jitter_equals_torchvision() -> None:
    image = picture()
    for strength in (0.3, 0.9, 1.5):
        theirs, ours = TorchvisionColorJitter(strength, strength, strength), ColorJitter(strength)
        for seed in range(40):
            seed_all(seed)
            expected = to_array(theirs(image)).astype(int)
            state = torch.rand(1)
            seed_all(seed)
            result = applied(image, ours(50))
            assert torch.equal(state, torch.rand(1))
            assert np.abs(expected - result).max() <= 3  # one level, then enhanced twice
            assert np.abs(expected - result).mean() < 0.02


def test_settings_choose_the_steps() -> None:
    assert build_operation_draw(AugmentSettings(horizontal_flip=0), 8).steps == ()
    draw = build_operation_draw(AugmentSettings(three_augment=True, color_jitter=0.3), 8)
    assert draw.steps == (HorizontalFlip(0.5), three_augment, ColorJitter(0.3))


def test_two_policies_at_once_are_refused() -> None:
    with pytest.raises(ValidationError, match="exclude each other"):
        AugmentSettings(three_augment=True, rand_augment="rand-m9")
