"""Generated demo data: reproducible, balanced, masked exactly, and not solvable from what is beside the object."""

import io

import numpy as np
import pytest
from PIL import Image

from sar_dist.data.making.demo import demo_class_names, demo_samples
from sar_dist.errors import UserError


def decoded(data: bytes) -> np.ndarray:
    return np.array(Image.open(io.BytesIO(data)))


def test_samples_have_the_agreed_fields() -> None:
    samples = list(demo_samples("train", 24, 8, 64, seed=0))
    assert len({sample["key"] for sample in samples}) == 24
    for index, sample in enumerate(samples):
        assert set(sample) == {"key", "jpg", "cls", "mask.png"}
        assert "." not in sample["key"]
        assert sample["cls"] == index % 8
        assert decoded(sample["jpg"]).shape == (64, 64, 3)
        mask = decoded(sample["mask.png"])
        assert mask.shape == (64, 64)
        assert set(np.unique(mask)) == {0, 255}
        assert 0.02 < (mask > 0).mean() < 0.6


def test_a_sample_is_a_function_of_seed_split_and_index() -> None:
    whole = list(demo_samples("train", 12, 5, 48, seed=3))
    assert list(demo_samples("train", 5, 5, 48, seed=3, start=7)) == whole[7:]
    assert next(demo_samples("train", 1, 5, 48, seed=4))["jpg"] != whole[0]["jpg"]
    assert next(demo_samples("val", 1, 5, 48, seed=3))["jpg"] != whole[0]["jpg"]
    assert len({sample["jpg"] for sample in whole}) == 12


@pytest.mark.parametrize("size", [32, 64, 97, 224])
def test_image_sizes(size: int) -> None:
    for sample in demo_samples("val", 2, 10, size, seed=0):
        assert decoded(sample["jpg"]).shape == (size, size, 3)
        assert decoded(sample["mask.png"]).shape == (size, size)


def test_the_object_stands_out_from_what_is_around_it() -> None:
    """The mask is on the object: its mean colour differs from its surroundings' in nearly every image."""
    distances = []
    for sample in demo_samples("train", 40, 10, 64, seed=1):
        image, mask = decoded(sample["jpg"]).astype(float), decoded(sample["mask.png"]) > 0
        distances.append(np.linalg.norm(image[mask].mean(0) - image[~mask].mean(0)))
    assert np.median(distances) > 40
    assert np.mean(np.array(distances) > 15) > 0.9


def test_class_names() -> None:
    assert demo_class_names(3) == ["disc", "square", "triangle"]
    assert len(set(demo_class_names(10))) == 10


@pytest.mark.parametrize(
    ("classes", "size", "complaint"), [(1, 64, "2 to 10"), (11, 64, "2 to 10"), (5, 16, "too small")]
)
def test_impossible_requests(classes: int, size: int, complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        next(demo_samples("train", 1, classes, size, seed=0))
