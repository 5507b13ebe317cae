"""Attention against regions: by hand, and against NumPy and SciPy map by map."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage

from sar_dist.transfer.tasks.attention.measures import (
    attention_measures,
    box_iou,
    main_component,
    mean_map,
    tight_boxes,
    uniform_measures,
)

PATCH = 4
NAMES = {"mass", "pointing", "jaccard", "box_iou", "box_hit"}


def one_region(top: int, left: int, bottom: int, right: int, size: int = 16) -> torch.Tensor:
    region = torch.zeros(1, size, size, dtype=torch.bool)
    region[:, top:bottom, left:right] = True
    return region


def measured_slowly(similarity: np.ndarray, region: np.ndarray) -> dict[str, float]:
    """One map (gh, gw) and one region (S, S), pixel by pixel."""
    weights = np.exp(similarity - similarity.max())
    pixels = np.kron(weights / weights.sum(), np.ones((PATCH, PATCH)) / PATCH**2)
    row, column = np.unravel_index(similarity.argmax(), similarity.shape)
    above = similarity > similarity.mean()
    labels, count = ndimage.label(above, np.ones((3, 3)))
    masses = [weights[labels == label].sum() for label in range(1, count + 1)]
    main = np.kron(labels == 1 + int(np.argmax(masses)), np.ones((PATCH, PATCH), bool))
    boxes = [np.zeros_like(region), np.zeros_like(region)]
    for box, shape in zip(boxes, (main, region), strict=True):
        rows, columns = np.flatnonzero(shape.any(1)), np.flatnonzero(shape.any(0))
        box[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = True
    overlap = (boxes[0] & boxes[1]).sum() / (boxes[0] | boxes[1]).sum()
    whole = np.kron(above, np.ones((PATCH, PATCH), bool))
    return {
        "mass": pixels[region].sum(),
        "pointing": float(region[row * PATCH + PATCH // 2, column * PATCH + PATCH // 2]),
        "jaccard": (whole & region).sum() / (whole | region).sum(),
        "box_iou": overlap,
        "box_hit": float(overlap >= 0.5),
    }


def test_every_measure_against_a_slow_one() -> None:
    generator = np.random.default_rng(0)
    similarity = generator.normal(size=(20, 3, 5, 4)).astype(np.float32)
    regions = np.stack([ndimage.gaussian_filter(generator.normal(size=(20, 16)), 3) > 0 for _ in range(20)])
    found = attention_measures(torch.from_numpy(similarity), torch.from_numpy(regions))
    assert found.keys() == NAMES
    for image in range(20):
        for head in range(3):
            expected = measured_slowly(similarity[image, head], regions[image])
            assert {name: float(found[name][image, head]) for name in NAMES} == pytest.approx(expected, abs=1e-5)


def test_a_perfect_map_and_a_wrong_one() -> None:
    right = torch.full((1, 1, 4, 4), -50.0)
    right[..., 1:3, 1:3] = 50.0
    perfect = attention_measures(right, one_region(4, 4, 12, 12))
    assert {name: float(value) for name, value in perfect.items()} == pytest.approx(dict.fromkeys(NAMES, 1.0))
    wrong = attention_measures(right, one_region(0, 0, 4, 16))
    assert {name: float(value) for name, value in wrong.items()} == pytest.approx(dict.fromkeys(NAMES, 0.0))


def test_only_the_main_component_makes_the_box() -> None:
    similarity = torch.zeros(1, 1, 4, 4)
    similarity[..., 0, 0] = 3.0
    similarity[..., 3, 2:] = 2.9  # two patches: more attention together
    assert float(attention_measures(similarity, one_region(12, 8, 16, 16))["box_iou"]) == 1.0


def test_a_constant_map_finds_nothing() -> None:
    region = one_region(0, 0, 8, 16)
    found = attention_measures(torch.ones(1, 1, 4, 4), region)
    assert float(found["mass"]) == pytest.approx(0.5)
    assert [float(found[name]) for name in ("jaccard", "box_iou", "box_hit")] == [0.0, 0.0, 0.0]


def test_uniform_baseline() -> None:
    found = uniform_measures(torch.cat([one_region(0, 0, 8, 16), one_region(0, 0, 4, 4)]), (4, 4))
    assert found.keys() == NAMES
    for name in ("mass", "pointing", "jaccard", "box_iou"):
        assert found[name].tolist() == pytest.approx([0.5, 1 / 16])
    assert found["box_hit"].tolist() == [1.0, 0.0]


def test_random_pointing_tends_to_the_uniform_baseline() -> None:
    torch.manual_seed(0)
    regions = one_region(4, 0, 16, 12).expand(4000, 16, 16)
    found = attention_measures(torch.randn(4000, 1, 4, 4), regions)
    expected = uniform_measures(regions, (4, 4))
    assert float(found["pointing"].mean()) == pytest.approx(float(expected["pointing"].mean()), abs=0.03)
    assert float(found["mass"].mean()) == pytest.approx(float(expected["mass"].mean()), abs=0.01)


def test_mean_map_is_the_mean_of_the_attentions() -> None:
    similarity = torch.randn(2, 3, 4, 5)
    expected = similarity.flatten(2).softmax(2).mean(1)
    torch.testing.assert_close(mean_map(similarity).flatten(1).softmax(1), expected)


def test_boxes() -> None:
    masks = torch.zeros(2, 5, 7, dtype=torch.bool)
    masks[0, 1, 2] = masks[0, 3, 6] = True
    assert tight_boxes(masks).tolist() == [[1, 2, 4, 7], [0, 0, 0, 0]]
    first, second = torch.tensor([[0, 0, 2, 2], [0, 0, 0, 0]]), torch.tensor([[1, 1, 3, 3], [0, 0, 0, 0]])
    assert box_iou(first, second).tolist() == pytest.approx([1 / 7, 0.0])


def test_an_empty_mask_has_no_component() -> None:
    masks = torch.zeros(1, 2, 3, 3, dtype=torch.bool)
    masks[0, 1, 0, 0] = True
    assert main_component(masks, torch.full((1, 2, 9), 1 / 9)).sum(dim=(2, 3)).tolist() == [[0, 1]]
