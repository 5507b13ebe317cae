"""Classifiers trained on frozen features: kNN, logistic regression, linear probe. See docs/evaluation_classification.md."""

from sar_dist.transfer.tasks.probes.figures import class_accuracy_figure

__all__ = ["class_accuracy_figure"]
