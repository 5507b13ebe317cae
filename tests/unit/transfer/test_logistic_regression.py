"""Logistic regression: both solvers against each other and the definition, and the choice of C."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import confusion_matrix, recall_score, top_k_accuracy_score

from sar_dist.errors import UserError
from sar_dist.transfer.class_scores import ClassificationScores
from sar_dist.transfer.tasks.probes.logistic_regression import INVERSE_STRENGTHS, choose, ranked_classes, usual_metric
from sar_dist.transfer.tasks.probes.logistic_solvers import fit_logistic_regression

CPU = torch.device("cpu")


def problem(classes: int, count: int = 400, width: int = 12, seed: int = 0):
    generator = np.random.default_rng(seed)
    features = generator.normal(size=(count, width)).astype(np.float32)
    scores = features @ generator.normal(size=(width, classes)) + 2 * generator.normal(size=(count, classes))
    return features, scores.argmax(axis=1)


def fit(features, labels, strength, solver, max_iterations=1000):
    return fit_logistic_regression(
        features, labels, strength, solver=solver, tolerance=1e-12, max_iterations=max_iterations, device=CPU
    )


def test_the_grid_is_dinov2s():
    assert len(INVERSE_STRENGTHS) == 45
    np.testing.assert_allclose(INVERSE_STRENGTHS[::44], [1e-6, 1e5])
    np.testing.assert_allclose(np.diff(np.log10(INVERSE_STRENGTHS)), 0.25)


@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("strength", [1e-6, 1e-2, 1.0, 1e5])
def test_torch_finds_scikit_learns_coefficients(classes, strength):
    features, labels = problem(classes)
    ours, theirs = (fit(features, labels, strength, solver) for solver in ("torch", "sklearn"))
    assert ours.converged
    assert theirs.converged
    np.testing.assert_allclose(ours.weight, theirs.weight, atol=7e-6)
    np.testing.assert_allclose(ours.intercept, theirs.intercept, atol=7e-6)
    new = problem(classes, seed=1)[0]
    np.testing.assert_array_equal(ranked_classes(ours, new), ranked_classes(theirs, new))


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("solver", ["sklearn", "torch"])
def test_predictions_are_those_of_the_estimator_itself(classes, solver):
    features, labels = problem(classes)
    labels = labels * 3 + 1  # classes that do not occur leave gaps
    estimator = LogisticRegression(C=0.5, tol=1e-12, max_iter=1000).fit(features.astype(np.float64), labels)
    new = problem(classes, seed=1)[0]
    order = ranked_classes(fit(features, labels, 0.5, solver), new)
    np.testing.assert_array_equal(order[:, 0], estimator.predict(new.astype(np.float64)))
    assert order.shape == (400, classes)


@pytest.mark.parametrize("solver", ["sklearn", "torch"])
def test_a_fit_that_was_cut_short_says_so(solver):
    features, labels = problem(5)
    assert not fit(features, labels, 1e5, solver, max_iterations=3).converged


@pytest.mark.parametrize("solver", ["sklearn", "torch"])
def test_one_class_cannot_be_told_apart(solver):
    with pytest.raises(UserError, match="two classes or more"):
        fit(np.ones((4, 2), dtype=np.float32), np.full(4, 3), 1.0, solver)


def test_of_equally_good_strengths_the_most_regularized_one_is_chosen():
    assert choose([10.0, 70.0, 70.0, 60.0]) == 1


def test_pets_and_flowers_are_scored_by_class(tmp_path: Path):
    for names, metric in (
        (("flowers-102",), "mean_per_class"),
        (("oxford-iiit-pet",), "mean_per_class"),
        (("cifar-10-batches-py",), "top1"),
        (("train", "val", "carpets"), "top1"),
        (("train", "val"), "top1"),
    ):
        root = tmp_path / f"root_{'_'.join(names)[:4]}{len(names)}"
        for name in names:
            (root / name).mkdir(parents=True)
        assert usual_metric(root) == metric
    (tmp_path / "pets" / "train").mkdir(parents=True)
    assert usual_metric(tmp_path / "pets") == "mean_per_class"


def test_class_metrics_are_scikit_learns():
    generator = np.random.default_rng(3)
    labels = generator.integers(0, 8, 300)
    labels[labels == 5] = 6  # a class without samples
    scores = generator.normal(size=(300, 8)) + 2 * np.eye(8)[labels]
    order = np.argsort(-scores, axis=1)[:, :5]
    bad = np.zeros(300, dtype=bool)
    scored = ClassificationScores(order, labels, bad, 8)
    found = scored.metrics
    assert found["top1"] == pytest.approx(100 * (order[:, 0] == labels).mean())
    assert found["top5"] == pytest.approx(100 * top_k_accuracy_score(labels, scores, k=5, labels=range(8)))
    recalls = recall_score(labels, order[:, 0], labels=np.unique(labels), average="macro")
    assert found["mean_per_class"] == pytest.approx(100 * recalls)
    expected = confusion_matrix(labels, order[:, 0], labels=range(8))
    np.testing.assert_array_equal(scored.confusion.numpy(), expected)
    table = scored.table([f"c{number}" for number in range(8)])
    assert table[5] == {"class": "c5", "samples": 0, "top1": None}
    assert table[0]["samples"] == (labels == 0).sum()


def test_unreadable_and_unlabelled_samples_count_as_wrong():
    order = np.array([[0, 1], [1, 0], [0, 1], [1, 0]])
    labels, bad = np.array([0, 1, 0, -1]), np.array([False, True, False, True])
    scored = ClassificationScores(order, labels, bad, 2)
    assert (scored.samples, scored.skipped) == (4, 2)
    assert scored.chance == {"top1": 50.0, "top5": 100.0, "mean_per_class": 50.0}
    assert scored.metrics == {"top1": 50.0, "top5": 50.0, "mean_per_class": 50.0}
    assert scored.confusion.tolist() == [[2, 0], [0, 0]]
