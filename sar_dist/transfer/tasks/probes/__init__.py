"""Classifiers trained on frozen features: kNN, logistic regression, linear probe. See docs/evaluation_classification.md."""
