import pytest
import torch
from segmentation_factory import scene
from torch.nn import functional

from sar_dist.transfer.tasks.segmentation import transforms
from sar_dist.transfer.tasks.segmentation.transforms import (
    TrainTransform,
    evaluation_image,
    fitted_size,
    photometric_distortion,
)

STEP = 50


def shown(label):
    """An image that shows its labels (0..4, void black) in all channels."""
    return (label.where(label != 255, torch.zeros_like(label)) * STEP).expand(3, -1, -1).contiguous()


def interior(label, reach=4):
    """Where all labels within ``reach`` pixels are the same, not void: away from what interpolation mixes."""
    values = label[None].float()
    size = 2 * reach + 1
    highest = functional.max_pool2d(values, size, stride=1, padding=reach)[0]
    lowest = -functional.max_pool2d(-values, size, stride=1, padding=reach)[0]
    same = (highest == lowest) & (label != 255)
    framed = torch.zeros_like(same)  # what lies beyond the crop has been mixed in at its edges
    framed[reach:-reach, reach:-reach] = same[reach:-reach, reach:-reach]
    return framed


def test_image_and_labels_stay_aligned(monkeypatch):
    monkeypatch.setattr(transforms, "photometric_distortion", lambda image: image)
    transform = TrainTransform(crop=64, short_side=64, long_side=256)
    checked, sizes = 0, set()
    for seed in range(40):
        torch.manual_seed(seed)
        label = torch.from_numpy(scene(seed, height=120, width=200))
        image, mask, size = transform(shown(label), label)
        assert image.shape == (3, 64, 64)
        assert mask.shape == (64, 64)
        where = interior(mask)
        assert torch.equal(image[0][where], mask[where] * STEP)
        checked += int(where.sum())
        sizes.add(size)
    assert checked > 10_000
    assert len(sizes) > 5  # scales below 1 leave padding


def test_flip_crop_and_scale_all_happen(monkeypatch):
    monkeypatch.setattr(transforms, "photometric_distortion", lambda image: image)
    label = torch.arange(4, dtype=torch.uint8).repeat_interleave(16).expand(64, 64).contiguous()
    transform = TrainTransform(crop=64, short_side=64, long_side=256)
    rising = set()
    for seed in range(20):
        torch.manual_seed(seed)
        mask = transform(shown(label), label)[1]
        row = mask[0][mask[0] != 255].int()
        rising.add(bool((row.diff() >= 0).all()))
    assert rising == {True, False}


def test_padding_is_void(monkeypatch):
    monkeypatch.setattr(transforms, "SCALE_RANGE", (0.5, 0.5))
    label = torch.from_numpy(scene(0, height=64, width=80, labels=3))
    image, mask, size = TrainTransform(crop=64, short_side=64, long_side=256)(shown(label) + 1, label)
    assert size == (32, 40)
    assert bool((mask[32:] == 255).all())
    assert bool((mask[:, 40:] == 255).all())
    assert not image[:, 32:].any()
    assert not image[:, :, 40:].any()
    assert not bool((mask[:32, :40] == 255).any())


def test_a_crop_of_nearly_one_class_is_drawn_again(monkeypatch):
    """Class 1 fills a corner of a large map of class 0; void, which is everywhere else, does not count."""
    monkeypatch.setattr(transforms, "SCALE_RANGE", (1.0, 1.0))
    label = torch.full((128, 128), 255, dtype=torch.uint8)
    label[:, :64] = 0
    label[:64, :32] = 1
    transform = TrainTransform(crop=32, short_side=128, long_side=512)

    def mixed(tries):
        monkeypatch.setattr(transforms, "CROP_TRIES", tries)
        count = 0
        for seed in range(40):
            torch.manual_seed(seed)
            mask = transform(shown(label), label)[1]
            parts = torch.bincount(mask[mask != 255].long(), minlength=2)
            count += bool(0 < parts.max() < 0.75 * parts.sum())
        return count

    assert mixed(10) > 2 * mixed(1)


def test_the_same_random_state_gives_the_same_crop():
    label = torch.from_numpy(scene(0))
    transform = TrainTransform(crop=32, short_side=40, long_side=160)
    results = []
    for _ in range(2):
        torch.manual_seed(5)
        results.append(transform(shown(label), label))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])


def test_photometric_distortion_changes_colours_within_limits():
    image = torch.randint(0, 256, (3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    changed = 0
    for seed in range(20):
        torch.manual_seed(seed)
        distorted = photometric_distortion(image)
        assert distorted.dtype == torch.uint8
        changed += not torch.equal(distorted, image)
    assert changed > 10


@pytest.mark.parametrize(
    ("size", "expected"), [((360, 480), (512, 683)), ((683, 512), (683, 512)), ((300, 3000), (205, 2048))]
)
def test_images_are_fitted_into_the_frame(size, expected):
    assert fitted_size(size, 512, 2048) == expected
    assert evaluation_image(torch.zeros(3, *size, dtype=torch.uint8), 512, 2048).shape == (3, *expected)
