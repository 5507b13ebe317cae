"""Which sample comes when: pure functions of (shards, seed, batch number), and the stream that follows them."""

from sar_dist.data.order.plan import (
    BatchPlan,
    PlanSettings,
    check_streams,
    default_streams,
    steps_per_epoch,
    window_samples,
)
from sar_dist.data.order.stream import Sample, TrainRange, TrainSource, ValidationSource

__all__ = [
    "BatchPlan",
    "PlanSettings",
    "Sample",
    "TrainRange",
    "TrainSource",
    "ValidationSource",
    "check_streams",
    "default_streams",
    "steps_per_epoch",
    "window_samples",
]
