"""Which sample comes when: pure functions of (shards, seed, batch number), and the stream that follows them."""

from sar_dist.data.order.mixture import Mixture
from sar_dist.data.order.plan import (
    BatchPlan,
    PlanSettings,
    check_streams,
    default_streams,
    steps_per_epoch,
    streams_of_part,
    window_samples,
)
from sar_dist.data.order.stream import PlannedSet, Sample, TrainRange, TrainSource, ValidationSource

__all__ = [
    "BatchPlan",
    "Mixture",
    "PlanSettings",
    "PlannedSet",
    "Sample",
    "TrainRange",
    "TrainSource",
    "ValidationSource",
    "check_streams",
    "default_streams",
    "steps_per_epoch",
    "streams_of_part",
    "window_samples",
]
