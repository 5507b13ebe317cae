"""Classifiers trained on frozen features: kNN, logistic regression, linear probe. See docs/evaluation_classification.md."""

from sar_dist.transfer.tasks.probes.data import (
    ProbeData,
    check_labels,
    frozen_tokens,
    hold_out,
    open_probe_data,
    read_labels,
    say_unseen,
)
from sar_dist.transfer.tasks.probes.figures import sweep_figure

__all__ = [
    "ProbeData",
    "check_labels",
    "frozen_tokens",
    "hold_out",
    "open_probe_data",
    "read_labels",
    "say_unseen",
    "sweep_figure",
]
