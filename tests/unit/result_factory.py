"""Results of evaluations that nobody computed."""

from __future__ import annotations

from sar_dist.transfer.result import MeasuredData, MeasuredModel, Result


def some_result(**changes: object) -> Result:
    """Of ``knn``, with whatever is to be different."""
    values = {
        "task": "knn",
        "label": "knn",
        "primary": "top1",
        "metrics": {"top1": 50.0},
        "baselines": {"chance": {"top1": 10.0}},
        "partial": False,
        "model": MeasuredModel(spec="runs/a", description="a", fingerprint="f"),
        "data": MeasuredData(name="d", fingerprints={"val": "v"}, samples=10, skipped=0),
        "settings": {"seed": 0, "workers": 4},
        "protocol": {},
        "tables": {},
        "environment": {},
        "seconds": 1.0,
    }
    return Result.model_validate({**values, **changes})
