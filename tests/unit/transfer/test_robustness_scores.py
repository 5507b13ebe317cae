"""Accuracies from predictions and the mean corruption error, against independent arithmetic."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sar_dist.transfer.tasks.robustness.corruptions import mean_error
from sar_dist.transfer.tasks.robustness.samples import class_indices
from sar_dist.transfer.tasks.robustness.scores import (
    ALEXNET_ERRORS,
    CORRUPTIONS,
    corruption_errors,
    mean_corruption_error,
    real_top1,
    top_accuracies,
)
from sar_dist.transfer.tasks.robustness.tasks import best_classes


class Logits:
    """A backbone that gives these logits."""

    def logits(self, images: torch.Tensor) -> torch.Tensor:
        return images


def test_the_best_classes_of_a_subset_are_imagenet_indices() -> None:
    indices = class_indices("imagenet_a")
    logits = torch.randn(50, 1000)
    found = best_classes(indices)(Logits(), logits)["classes"].numpy()
    for row, classes in zip(logits.numpy(), found, strict=True):
        assert classes.tolist() == sorted(indices.tolist(), key=lambda index: -row[index])[:5]
    assert (found[:, 0] != logits.argmax(1).numpy()).any()


def test_without_a_subset_the_best_classes_are_those_of_topk() -> None:
    logits = torch.randn(20, 1000)
    found = best_classes(None)(Logits(), logits)["classes"]
    torch.testing.assert_close(found, logits.topk(5).indices)
    assert best_classes(None)(Logits(), torch.zeros(1, 1000))["classes"].tolist() == [[0, 1, 2, 3, 4]]


def test_accuracies_count_what_cannot_be_read_as_wrong() -> None:
    predictions = np.array([[3, 1, 2, 4, 5], [1, 3, 2, 4, 5], [1, 2, 4, 5, 3], [3, 0, 1, 2, 4]])
    labels = np.array([3, 3, 3, 3])
    bad = np.array([False, False, False, True])
    assert top_accuracies(predictions, labels, bad) == {"top1": 25.0, "top5": 75.0}


def test_real_labels_are_sets_and_empty_ones_are_left_out() -> None:
    predictions = np.array([[3], [1], [4], [7], [9]])
    right = [frozenset({2, 3}), frozenset({2}), frozenset(), frozenset({7}), frozenset({9})]
    bad = np.array([False, False, False, False, True])
    assert real_top1(predictions, right, bad) == (50.0, 4)
    assert real_top1(predictions[:1], [frozenset()], bad[:1]) == (0.0, 0)


def test_mean_corruption_error_is_that_of_the_paper() -> None:
    generator = np.random.default_rng(0)
    errors = {name: generator.random(5).tolist() for name in CORRUPTIONS}
    # Formula of Hendrycks and Dietterich: sums over severities divided first, then the mean over corruptions.
    alexnet_sums = {name: 5 * error for name, error in ALEXNET_ERRORS.items()}
    expected = 100 / 15 * sum(sum(errors[name]) / alexnet_sums[name] for name in CORRUPTIONS)
    assert mean_corruption_error(errors) == pytest.approx(expected)
    assert mean_error(errors) == pytest.approx(100 * np.mean([errors[name] for name in CORRUPTIONS]))


def test_alexnet_itself_has_100_and_a_perfect_model_0() -> None:
    assert len(CORRUPTIONS) == 15
    assert mean_corruption_error({name: [error] * 5 for name, error in ALEXNET_ERRORS.items()}) == pytest.approx(100)
    assert mean_corruption_error(dict.fromkeys(CORRUPTIONS, [0.0] * 5)) == 0
    assert corruption_errors({"fog": [0.0, 0.2, 0.4, 0.6, 0.8]})["fog"] == pytest.approx(100 * 0.4 / 0.819324)
