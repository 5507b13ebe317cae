"""Classifiers on other pictures of their classes: ImageNet-A, -R, -ReaL, -V2, -Sketch, -C. See docs/evaluation_robustness.md."""
