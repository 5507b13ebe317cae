import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sar_dist.transfer.tasks.segmentation.metrics import (
    class_accuracy,
    class_iou,
    count_pixels,
    majority_counts,
    scores,
)


def random_maps(seed, classes, present=None):
    """Labels with void and predictions of four images, int64 (6, 7); only classes below ``present`` are labelled."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, present or classes, (4, 6, 7), generator=generator)
    labels[torch.rand((4, 6, 7), generator=generator) < 0.2] = 255
    return labels.to(torch.uint8), torch.randint(0, classes, (4, 6, 7), generator=generator)


def count_all(labels, predictions, classes):
    return sum(count_pixels(label, one, classes) for label, one in zip(labels, predictions, strict=True))


def plain_scores(labels, predictions, classes):
    """The same scores from boolean masks, class by class, over all pixels at once."""
    valid = labels != 255
    true, found = labels[valid].numpy().astype(int), predictions[valid].numpy()
    ious, recalls = [], []
    for number in range(classes):
        is_true, is_found = true == number, found == number
        if (is_true | is_found).any():
            ious.append((is_true & is_found).sum() / (is_true | is_found).sum())
        if is_true.any():
            recalls.append((is_true & is_found).sum() / is_true.sum())
    return {"mIoU": 100 * np.mean(ious), "mAcc": 100 * np.mean(recalls), "aAcc": 100 * (true == found).mean()}


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 12), st.integers(1, 12))
def test_scores_equal_those_of_boolean_masks(seed, classes, present):
    labels, predictions = random_maps(seed, classes, min(present, classes))
    found = scores(count_all(labels, predictions, classes))
    assert found == pytest.approx(plain_scores(labels, predictions, classes), abs=1e-9)


def test_scores_equal_torchmetrics():
    torchmetrics = pytest.importorskip("torchmetrics.classification")
    labels, predictions = random_maps(0, 6)
    counts = count_all(labels, predictions, 6)
    jaccard = torchmetrics.MulticlassJaccardIndex(6, average="macro", ignore_index=255)(predictions, labels.long())
    accuracy = torchmetrics.MulticlassAccuracy(6, average="macro", ignore_index=255)(predictions, labels.long())
    assert scores(counts)["mIoU"] == pytest.approx(100 * float(jaccard), abs=1e-4)
    assert scores(counts)["mAcc"] == pytest.approx(100 * float(accuracy), abs=1e-4)


def test_a_class_that_is_absent_but_predicted_counts_zero_and_one_that_is_neither_is_left_out():
    label = torch.zeros(2, 2, dtype=torch.uint8)
    counts = count_pixels(label, torch.tensor([[0, 0], [0, 1]]), 3)
    np.testing.assert_allclose(class_iou(counts), [75, 0, np.nan])
    np.testing.assert_allclose(class_accuracy(counts), [75, np.nan, np.nan])
    assert scores(counts) == pytest.approx({"mIoU": 37.5, "mAcc": 75, "aAcc": 75})


def test_the_mean_is_over_the_set_not_over_images():
    first = count_pixels(torch.zeros(1, 9, dtype=torch.uint8), torch.zeros(1, 9, dtype=torch.int64), 2)
    second = count_pixels(torch.zeros(1, 1, dtype=torch.uint8), torch.ones(1, 1, dtype=torch.int64), 2)
    assert scores(first + second)["mIoU"] == pytest.approx(45)  # mean of per-image scores: 50


def test_pixels_without_a_prediction_are_wrong():
    label = torch.tensor([[0, 1, 255]], dtype=torch.uint8)
    counts = count_pixels(label, None, 2)
    assert counts.tolist() == [[0, 0, 1], [0, 0, 1]]
    assert scores(counts) == {"mIoU": 0, "mAcc": 0, "aAcc": 0}


def test_the_majority_baseline_is_a_model_that_always_says_the_same():
    labels, predictions = random_maps(3, 5)
    counts = count_all(labels, predictions, 5)
    constant = count_all(labels, torch.full_like(predictions, 2), 5)
    assert torch.equal(majority_counts(counts, 2), constant)
