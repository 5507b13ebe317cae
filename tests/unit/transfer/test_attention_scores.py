"""Jaccard indices of patch masks, against a pixel-by-pixel reimplementation of the reference."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn.functional import interpolate

from sar_dist.transfer.tasks.attention.mass import patch_attention, top_mass_mask
from sar_dist.transfer.tasks.attention.regions import count_patches
from sar_dist.transfer.tasks.attention.scores import (
    class_means,
    jaccard,
    no_scores,
    score_image,
    single_heads,
    summarise,
    sweep,
    uniform_score,
)

PATCH, GRID, HEADS = 4, 6, 3
SIZE = PATCH * GRID


def random_labels(seed: int, void: bool = True) -> np.ndarray:
    """(SIZE, SIZE) with blobs of several classes, void between them and a background."""
    generator = np.random.default_rng(seed)
    coarse = generator.choice([0, 0, 3, 7, 20, *([255] if void else [])], size=(9, 9))
    rows = np.arange(SIZE) * 9 // SIZE
    return coarse[rows][:, rows].astype(np.uint8)


def pixel_jaccard(mask: torch.Tensor, labels: torch.Tensor, void: str) -> list[float]:
    """Per class of one patch mask, in whole pixels."""
    pixels = interpolate(mask[None, None].float(), scale_factor=PATCH, mode="nearest")[0, 0].bool()
    counted = labels != 255 if void == "ignore" else torch.ones_like(labels, dtype=torch.bool)
    found = []
    for label in sorted(set(labels.unique().tolist()) - {0, 255}):
        object_mask = labels == label
        intersection = (object_mask & pixels & counted).sum().item()
        found.append(intersection / ((object_mask | pixels) & counted).sum().item())
    return found


def by_label(values: np.ndarray, classes: tuple[int, ...]) -> np.ndarray:
    return values[..., np.argsort(classes)]


@pytest.mark.parametrize("void", ["reference", "ignore"])
@pytest.mark.parametrize("seed", range(8))
def test_counting_by_patch_is_counting_pixels(seed: int, void: str) -> None:
    labels = random_labels(seed)
    regions = count_patches(labels, PATCH, void)
    masks = np.random.default_rng(seed).random((HEADS, GRID, GRID)) < 0.4
    found = by_label(jaccard(masks, regions), regions.classes)
    expected = [pixel_jaccard(torch.from_numpy(mask), torch.from_numpy(labels).long(), void) for mask in masks]
    np.testing.assert_allclose(found, expected, rtol=1e-14)


def test_classes_come_by_falling_size_and_without_background_and_void() -> None:
    labels = np.zeros((8, 8), np.uint8)
    labels[:2], labels[2:6], labels[6:7] = 9, 4, 255
    regions = count_patches(labels, 4, "ignore")
    assert regions.classes == (4, 9)
    np.testing.assert_array_equal(regions.objects, [[[8, 8], [8, 8]], [[8, 8], [0, 0]]])
    np.testing.assert_array_equal(regions.valid, [[16, 16], [12, 12]])


def test_a_perfect_mask_has_jaccard_one() -> None:
    labels = np.kron(np.eye(GRID, dtype=np.uint8) * 5, np.ones((PATCH, PATCH), np.uint8))
    for void in ("reference", "ignore"):
        regions = count_patches(labels, PATCH, void)
        assert jaccard(np.eye(GRID, dtype=bool), regions).tolist() == [1.0]
        assert jaccard(~np.eye(GRID, dtype=bool), regions).tolist() == [0.0]


def test_void_is_background_or_nothing() -> None:
    """A mask on an object of 16 pixels and on 16 void pixels beside it."""
    labels = np.zeros((8, 8), np.uint8)
    labels[:4, :4], labels[:4, 4:] = 1, 255
    mask = np.array([[True, True], [False, False]])
    assert jaccard(mask, count_patches(labels, 4, "reference")).tolist() == [0.5]
    assert jaccard(mask, count_patches(labels, 4, "ignore")).tolist() == [1.0]


def test_ideal_attention_is_capped_by_the_kept_mass() -> None:
    """Attention that is uniform on an object of 10 patches: 60 % of its mass is 6 patches."""
    labels = np.zeros((SIZE, SIZE), np.uint8)
    labels[:PATCH], labels[PATCH : 2 * PATCH, : 4 * PATCH] = 1, 1
    similarity = np.full((1, GRID, GRID), -100.0)
    similarity[0, 0], similarity[0, 1, :4] = 0.0, 0.0
    scores = score_image(similarity, count_patches(labels, PATCH, "reference"), [0.55, 0.95])
    np.testing.assert_allclose(scores.best_head(), [0.6, 1.0])


def test_uniform_attention_scores_the_share_of_the_object() -> None:
    labels = np.zeros((SIZE, SIZE), np.uint8)
    labels[:6] = 1  # 6 of 24 lines
    labels[20:] = 2  # 4
    labels[6:12] = 255
    assert uniform_score(count_patches(labels, PATCH, "reference")) == pytest.approx((6 + 4) / 2 / 24)
    assert uniform_score(count_patches(labels, PATCH, "ignore")) == pytest.approx((6 + 4) / 2 / 18)


@pytest.mark.parametrize("void", ["reference", "ignore"])
def test_scores_and_summaries_against_loops_over_images_classes_and_heads(void: str) -> None:
    generator = np.random.default_rng(5)
    best, heads, mean = [], [], []
    scored, classes = [], []
    for seed in range(6):
        labels, similarity = random_labels(seed), generator.normal(size=(HEADS, GRID, GRID)) * 2
        regions = count_patches(labels, PATCH, void)
        scored.append(score_image(similarity, regions, [0.3, 0.6]))
        classes.append(regions.classes)
        attention = patch_attention(similarity)
        pixels = torch.from_numpy(labels).long()
        values = [pixel_jaccard(torch.from_numpy(top_mass_mask(one, 0.6)), pixels, void) for one in attention]  # H K
        best.append(np.mean([max(head[k] for head in values) for k in range(len(values[0]))]))
        heads.append([np.mean(head) for head in values])
        mean.append(np.mean(pixel_jaccard(torch.from_numpy(top_mass_mask(attention.mean(0), 0.6)), pixels, void)))
    found = summarise(scored, 1)
    assert found["jaccard"] == pytest.approx(100 * np.mean(best))
    assert found["jaccard_single_head"] == pytest.approx(100 * np.mean(heads, axis=0).max())
    assert found["jaccard_average_head"] == pytest.approx(100 * np.mean(heads))
    assert found["jaccard_mean_attention"] == pytest.approx(100 * np.mean(mean))
    assert found["jaccard"] > found["jaccard_single_head"] > found["jaccard_average_head"]
    np.testing.assert_allclose(single_heads(scored, 1), 100 * np.mean(heads, axis=0))
    assert sweep(scored, [0.3, 0.6])["jaccard"] == [summarise(scored, 0)["jaccard"], found["jaccard"]]
    pairs = [image.heads[1].max(axis=1)[labels.index(7)] for image, labels in zip(scored, classes, strict=True)]
    assert class_means(scored, classes, 1)[7] == pytest.approx(100 * np.mean(pairs))


def test_an_unreadable_image_scores_nothing_and_one_without_objects_has_no_classes() -> None:
    regions = count_patches(random_labels(0), PATCH, "reference")
    assert no_scores(HEADS, regions, [0.6]).best_head().tolist() == [0.0]
    empty = count_patches(np.full((SIZE, SIZE), 255, np.uint8), PATCH, "ignore")
    assert empty.classes == ()
    assert score_image(np.zeros((HEADS, GRID, GRID)), empty, [0.6]).heads.shape == (1, 0, HEADS)
